"""A checkpoint as a folder that diffusers loads, and with --reverse True back.

    python scripts/export_diffusers.py --model_path runs/a/ema_0.9999_200000.pt --out_dir a
    python scripts/export_diffusers.py --reverse True --model_path a --out_dir runs/b

The folder holds unet/ for UNet2DModel.from_pretrained and scheduler/ for DDPMScheduler; as a whole
it is a DDPMPipeline. Back comes model000000.pt, for --init_from and --model_path, and config.json.
The architecture is read from config.json beside the checkpoint. Back, the order of q, k, v is
that of --use_new_attention_order. diffusers need not be installed.
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

    from flatdiff.world import dist_util

    folder = flags.export.out_dir
    with dist_util.session():
        if not folder or (os.path.exists(folder) and os.listdir(folder)):
            raise ValueError(f"--out_dir is {folder!r}, expected a folder that is new or empty")
        (from_diffusers if flags.export.reverse else to_diffusers)(flags)
        print(f"written: {os.path.abspath(folder)}")


def to_diffusers(flags):
    import dataclasses
    import os

    from flatdiff.exchange import diffusers_config, diffusers_format
    from flatdiff.models import networks
    from flatdiff.store import checkpoint

    path, folder = flags.export.model_path, flags.export.out_dir
    model, _ = networks.from_checkpoint(path, flags)
    trained, _ = checkpoint.config_of(path)
    chain = dataclasses.asdict(flags.diffusion) | trained.get("diffusion", {})
    network = dataclasses.asdict(flags.model) | trained.get("model", {})
    unet = diffusers_config.unet_config({**network, "learn_sigma": chain["learn_sigma"]})
    scheduler = diffusers_config.scheduler_config(chain)
    weights = diffusers_format.to_diffusers(
        model.state_dict(), unet, network["use_new_attention_order"]
    )

    os.makedirs(f"{folder}/unet")
    os.makedirs(f"{folder}/scheduler")
    checkpoint.save_tensors(weights, f"{folder}/unet/{WEIGHTS}", about={})
    checkpoint.save_json({"_class_name": "UNet2DModel", **unet}, f"{folder}/unet/config.json")
    scheduler = {"_class_name": "DDPMScheduler", **scheduler}
    checkpoint.save_json(scheduler, f"{folder}/scheduler/scheduler_config.json")
    checkpoint.save_json(PIPELINE, f"{folder}/model_index.json")


def from_diffusers(flags):
    import dataclasses
    import os

    from flatdiff.exchange import diffusers_config, diffusers_format
    from flatdiff.models import networks
    from flatdiff.store import checkpoint, disk, restore

    source, folder = flags.export.model_path, flags.export.out_dir
    unet_config = f"{source}/unet/config.json"
    scheduler_config = f"{source}/scheduler/scheduler_config.json"
    with disk.reading(unet_config):
        unet = checkpoint.load_json(unet_config)
        network = diffusers_config.model_flags(unet)
        config.checked(config.ModelFlags, network, unet_config)
    with disk.reading(scheduler_config):
        chain = diffusers_config.diffusion_flags(checkpoint.load_json(scheduler_config))
        config.checked(config.DiffusionFlags, chain, scheduler_config)
    if network.pop("learn_sigma") != chain["learn_sigma"]:
        raise ValueError(f"{source}: out_channels is 6 exactly if variance_type is learned_range")
    flags.model = dataclasses.replace(flags.model, **network)
    flags.diffusion = dataclasses.replace(flags.diffusion, **chain)
    path = f"{source}/unet/{WEIGHTS}"
    with disk.reading(path):
        weights = diffusers_format.from_diffusers(
            checkpoint.load(path), unet, flags.model.use_new_attention_order
        )
    model, _ = networks.build(flags.model, flags.diffusion)
    restore.load_weights(model, weights, source)

    os.makedirs(folder, exist_ok=True)
    checkpoint.save(model.state_dict(), f"{folder}/{checkpoint.model_name(0)}")
    kept = {k: v for k, v in config.to_dict(flags).items() if k in ("model", "diffusion")}
    checkpoint.save_json(kept, f"{folder}/{checkpoint.CONFIG}")


if __name__ == "__main__":
    main()
