"""A checkpoint as a folder that diffusers loads, and with --reverse True back.

    python scripts/export_diffusers.py --model_path runs/a/ema_0.9999_200000.pt --out_dir a
    python scripts/export_diffusers.py --reverse True --model_path a --out_dir runs/b

The folder holds unet/ for UNet2DModel.from_pretrained and scheduler/ for DDPMScheduler; as a whole
it is a DDPMPipeline. Of --objective flow and edm, scheduler/ is for FlowMatchEulerDiscreteScheduler
or EDMEulerScheduler, and there is no pipeline. Of --network vit it holds transformer/ for
DiTTransformer2DModel, of whose pixels diffusers has no pipeline; without classes, its class_labels
are 0. README.md is its model card; --push_to_hub USER/NAME puts all of it on the Hugging Face Hub.
Back comes model000000.pt, for --init_from and --model_path, and config.json.
The architecture is read from config.json beside the checkpoint. Back, the order of q, k, v is
that of --use_new_attention_order, and with --class_dropout the last label is that of images without
one, which our own exports say themselves. diffusers need not be installed.
"""

from flatdiff.flags import config

WEIGHTS = "diffusion_pytorch_model.safetensors"
PIPELINE = {
    "_class_name": "DDPMPipeline",
    "unet": ["diffusers", "UNet2DModel"],
    "scheduler": ["diffusers", "DDPMScheduler"],
}


def main():
    flags = config.parse(
        __doc__,
        export=config.ExportFlags,
        run=config.RunFlags,
        model=config.ModelFlags,
        diffusion=config.DiffusionFlags,
    )
    import os

    from flatdiff.exchange import hub
    from flatdiff.world import dist_util

    folder, name = flags.export.out_dir, flags.export.push_to_hub
    with dist_util.session():
        if not folder or (os.path.exists(folder) and os.listdir(folder)):
            raise ValueError(f"--out_dir is {folder!r}, expected a folder that is new or empty")
        if name:
            hub.check(name)
        (from_diffusers if flags.export.reverse else to_diffusers)(flags)
        print(f"written: {os.path.abspath(folder)}")
        if name:
            print(f"pushed: {hub.push(folder, name)}")


def to_diffusers(flags):
    import dataclasses
    import os

    from flatdiff.exchange import card, diffusers_config
    from flatdiff.models import networks
    from flatdiff.store import checkpoint, disk

    path, folder = flags.export.model_path, flags.export.out_dir
    model, _ = networks.from_checkpoint(path, flags)
    trained, _ = checkpoint.config_of(path)
    chain = dataclasses.asdict(flags.diffusion) | trained.get("diffusion", {})
    network = dataclasses.asdict(flags.model) | trained.get("model", {})
    network["learn_sigma"] = chain["learn_sigma"]
    scheduler = diffusers_config.scheduler_of(chain)
    part, about, weights = theirs_of(model.state_dict(), network)

    os.makedirs(f"{folder}/{part}")
    os.makedirs(f"{folder}/scheduler")
    checkpoint.save_tensors(weights, f"{folder}/{part}/{WEIGHTS}", about={})
    checkpoint.save_json(about, f"{folder}/{part}/config.json")
    checkpoint.save_json(scheduler, f"{folder}/scheduler/scheduler_config.json")
    kind = about["_class_name"]
    if part in PIPELINE and scheduler["_class_name"] == PIPELINE["scheduler"][1]:
        checkpoint.save_json(PIPELINE, f"{folder}/model_index.json")
        kind = PIPELINE["_class_name"]
    told = os.path.basename(path), checkpoint.sha256(path), kind
    with disk.writing(f"{folder}/README.md", "w") as file:
        file.write(card.card(trained, network, *told))


def theirs_of(weights, network):
    """(folder, config, weights) of diffusers for a state dict and the flags of its network."""
    from flatdiff.exchange import diffusers_config, diffusers_format, dit_format

    if network["network"] == "unet":
        unet = diffusers_config.unet_config(network)
        weights = diffusers_format.to_diffusers(weights, unet, network["use_new_attention_order"])
        return "unet", {"_class_name": "UNet2DModel", **unet}, weights
    if network["network"] == "vit":
        dit = {"_class_name": "DiTTransformer2DModel", **dit_format.dit_config(network)}
        return "transformer", dit, dit_format.to_diffusers(weights, network)
    raise ValueError(f"--network {network['network']}: diffusers has unet and vit alone")


def from_diffusers(flags):
    import dataclasses
    import os

    from flatdiff.exchange import diffusers_config
    from flatdiff.models import networks
    from flatdiff.store import checkpoint, disk, restore

    source, folder = flags.export.model_path, flags.export.out_dir
    scheduler_config = f"{source}/scheduler/scheduler_config.json"
    network, weights = ours_of(source, flags.model)
    with disk.reading(scheduler_config):
        chain = diffusers_config.flags_of_scheduler(checkpoint.load_json(scheduler_config))
        config.checked(config.DiffusionFlags, chain, scheduler_config)
    if network.pop("learn_sigma") != chain["learn_sigma"]:
        raise ValueError(f"{source}: out_channels is 6 exactly if variance_type is learned_range")
    flags.model = dataclasses.replace(flags.model, **network)
    flags.diffusion = dataclasses.replace(flags.diffusion, **chain)
    model, _ = networks.build(flags.model, flags.diffusion)
    restore.load_weights(model, weights, source)

    os.makedirs(folder, exist_ok=True)
    checkpoint.save(model.state_dict(), f"{folder}/{checkpoint.model_name(0)}")
    kept = {k: v for k, v in config.to_dict(flags).items() if k in ("model", "diffusion")}
    checkpoint.save_json(kept, f"{folder}/{checkpoint.CONFIG}")


def ours_of(source, asked):
    """(flags of the network, and learn_sigma; weights) of a folder of diffusers."""
    from flatdiff.exchange import diffusers_config, diffusers_format, dit_format
    from flatdiff.store import checkpoint, disk

    part = "transformer" if checkpoint.exists(f"{source}/transformer/config.json") else "unet"
    about, path = f"{source}/{part}/config.json", f"{source}/{part}/{WEIGHTS}"
    with disk.reading(about):
        theirs = checkpoint.load_json(about)
        if part == "unet":
            network = diffusers_config.model_flags(theirs, asked.class_dropout)
            config.checked(config.ModelFlags, network, about)
    with disk.reading(path):
        weights = checkpoint.load(path)
        if part == "unet":
            order = asked.use_new_attention_order
            return network, diffusers_format.from_diffusers(weights, theirs, order)
    with disk.reading(about):
        network = dit_format.model_flags(theirs, weights)
        config.checked(config.ModelFlags, network, about)
    with disk.reading(path):
        return network, dit_format.from_diffusers(weights, network)


if __name__ == "__main__":
    main()
