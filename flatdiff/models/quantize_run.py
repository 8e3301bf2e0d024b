"""What --quant does to a loaded network before it samples, and what the log says about it.

The loss is measured before and after on the same images, timesteps and noise, so its rise is known
far better than the loss itself. All ranks do the same; the first one writes. Networks are called
by `forward`, past torch.compile, which would not notice that their layers change.
"""

import dataclasses
import functools
import os

import torch

from ..chain import probe
from ..flags import config
from ..flags.choices import QUANTIZERS, chosen
from ..quantize import int8, packing
from ..quantize.grid import BITS, Quantizer, layers_of, quantize_inputs, quantize_weights
from ..rng import INT8, generator
from ..store import checkpoint, disk
from ..world import dist_util, logger
from . import factories, networks, run_util

ROUNDING = [f.name for f in dataclasses.fields(config.QuantFlags) if f.metadata["fixed"]]


@torch.no_grad()
def quantize(model, flags, folder):
    """Round the network in place as --quant and its companions say; returns the flags in force.

    How weights are rounded is the file's own, if its weights are packed. Writes quantization_w8.csv
    (or so) into the folder, and the file of --save_quantized. ValueError for flags that do not go
    together, or that contradict the file.
    """
    quant = settings(flags)
    if not quant.quant:
        return quant
    layers = layers_of(model, [p for p in quant.quant_skip.split(",") if p])
    weights = _stored(flags) or quantize_weights(layers, _quantizer(quant))
    tensors = packing.pack(model.state_dict(), weights)
    _log_sizes(model, layers, tensors, quant)
    _log_errors(layers, weights, os.path.join(folder, f"quantization{suffix(quant)}.csv"))
    if quant.save_quantized and dist_util.rank() == 0:
        checkpoint.save_tensors(tensors, quant.save_quantized, _about(flags, quant))
        logger.log(f"saved {checkpoint.absolute(quant.save_quantized)}")
    losses, plan = _loss_meter(model, flags)
    before = losses()
    if quant.quant_backend == "int8":
        _install_int8(model, layers, weights, quant)
    else:
        _install(layers, weights, quant)
    _log_losses(before, losses(), plan)
    return quant


def suffix(quant):
    """Of the name of the samples: _w8 for 8-bit weights, _w8a8 if inputs have 8 bits too."""
    inputs = f"a{quant.quant_activations}" if quant.quant_activations else ""
    return f"_w{quant.quant}{inputs}" if quant.quant else ""


def settings(flags):
    """The QuantFlags in force, checked."""
    quant, path = flags.quant, flags.sample.model_path
    stored = checkpoint.about(path).get("quant")
    if stored:
        quant = config.as_trained(type(quant), stored, flags.given, path)
    for name in ("quant", "quant_activations"):
        bits = getattr(quant, name)
        if bits not in (0, *BITS):
            raise ValueError(f"--{name} {bits}: expected 2 to 8 bits, or 0 to stay in fp32")
    if quant.save_quantized and not quant.save_quantized.endswith(".safetensors"):
        raise ValueError(f"--save_quantized {quant.save_quantized}: give a name in .safetensors")
    for name in ("quant_activations", "quant_backend", "save_quantized"):
        if not quant.quant and getattr(quant, name) != getattr(config.QuantFlags, name):
            raise ValueError(f"--{name} is for quantized weights only: give --quant 8 too")
    if quant.quant_backend == "int8":
        _check_int8(quant)
    return quant


def _check_int8(quant):
    if not (quant.quant_symmetric and quant.quant_activations):
        raise ValueError(
            "--quant_backend int8 multiplies integers centred on zero: give --quant_symmetric True "
            "and --quant_activations 8 too (or 7, on CPUs without VNNI)"
        )
    if dist_util.dev().type != "cpu":
        raise ValueError("--quant_backend int8 is for CPUs; on this device use simulate or packed")
    int8.check(quant.quant, quant.quant_activations)


def _quantizer(quant):
    ends, knobs = chosen(QUANTIZERS, quant.quant_range)
    ends = functools.partial(ends, **knobs) if knobs else ends
    return Quantizer(quant.quant, quant.quant_granularity, quant.quant_symmetric, ends)


def _stored(flags):
    """The file's own packed weights, by layer; {} if it has none."""
    path = flags.sample.model_path
    if "quant" not in checkpoint.about(path):
        return {}
    logger.log("the file's weights are quantized already: what follows counts from these")
    return packing.packed_weights(dist_util.load_state_dict(path, map_location=dist_util.dev()))


def _about(flags, quant):
    """The header that lets a file of packed weights stand alone."""
    trained, _ = checkpoint.config_of(flags.sample.model_path)
    groups = trained or config.to_dict(flags)
    rounding = {name: getattr(quant, name) for name in ROUNDING}
    kept = {name: groups[name] for name in ("model", "diffusion", "classes") if name in groups}
    return kept | {"quant": rounding}


def _install(layers, weights, quant):
    """Give the layers their quantized weights, and inputs; returns the inputs' hooks, by layer."""
    for name, layer in layers.items():
        if quant.quant_backend == "packed":
            packing.keep_packed(layer, weights[name])
        else:
            layer.weight.copy_(weights[name].dequantize())
    bits = quant.quant_activations
    return {name: quantize_inputs(layer, bits) for name, layer in layers.items()} if bits else {}


def _install_int8(model, layers, weights, quant):
    """`_install`, then integers where they can be; says how far that is from the simulation."""
    fp32 = _output(model)
    hooks = _install(layers, weights, quant)
    simulated = _output(model)
    convolutions = [name for name, layer in layers.items() if int8.suits(layer)]
    for name in convolutions:
        hooks[name].remove()
        int8.use_int8(layers[name], weights[name], quant.quant_activations)
    logger.log(
        f"int8 arithmetic in {len(convolutions)} layers: on noise, the network's output is "
        f"{_off(_output(model), simulated)} off the simulation's, which is "
        f"{_off(simulated, fp32)} off fp32's"
    )


def _output(model):
    """What the network says to a noise at two timesteps."""
    size, device = model.image_size, dist_util.dev()
    x = torch.randn(2, 3, size, size, generator=generator(INT8)).to(device)
    labels = {} if model.num_classes is None else {"y": torch.zeros(2, dtype=int, device=device)}
    return model.forward(x, torch.tensor([100, 900], device=device), **labels)


def _off(output, reference):
    if not reference.any():  # as of a network that was never trained: there is nothing to share
        return f"{(output - reference).norm():.3g} (of zeros)"
    return f"{(output - reference).norm() / reference.norm():.2%}"


# The log


def _log_sizes(model, layers, tensors, quant):
    megabytes = sum(t.nbytes for t in tensors.values()) / 1e6
    fp32 = sum(p.numel() for p in model.parameters()) * 4 / 1e6
    quantized = sum(layer.weight.numel() for layer in layers.values()) * 4 / 1e6
    grid = f"per {quant.quant_granularity}, {quant.quant_range}"
    logger.log(
        f"quantized: {len(layers)} layers to {quant.quant} bits ({grid}"
        f"{', symmetric' if quant.quant_symmetric else ''}), {quantized / fp32:.1%} of the weights"
    )
    logger.log(f"size: {fp32:.2f} MB in fp32, {megabytes:.2f} MB packed")


def _log_errors(layers, weights, path):
    """Distance ||w_q - w||, in all and layer by layer."""
    rows = []
    for name, layer in layers.items():
        norm = layer.weight.double().norm().item()
        distance = (weights[name].dequantize() - layer.weight).double().norm().item()
        rows.append(
            {
                "layer": name,
                "num_weights": layer.weight.numel(),
                "norm": norm,
                "distance": distance,
                "relative_error": _share(distance, norm),
            }
        )
    total, whole = (sum(row[key] ** 2 for row in rows) ** 0.5 for key in ("distance", "norm"))
    logger.log(f"distance ||w_q - w||: {total:.4g}, {_share(total, whole):.2%} of ||w||; largest:")
    for row in sorted(rows, key=lambda row: -row["relative_error"])[:5]:
        logger.log(f"  {row['relative_error']:8.2%}  {row['layer']}")
    if dist_util.rank() == 0:
        disk.write_csv(rows, path)


def _share(part, whole):
    return part / whole if whole else 0.0


def _loss_meter(model, flags):
    """A function that gives the losses of images of --data_dir, and their Plan; {} without it.

    On the chain of the training, whatever the one that is sampled: float64 [N] each.
    """
    if not flags.data.data_dir:
        return dict, None
    dataset = run_util.open_dataset(flags.data, model.image_size, model.num_classes, model.classes)
    num_images = max(probe.LEAST, min(flags.quant.num_images, dataset.num_images))
    images, cond = probe.images_of(dataset, num_images, flags.run.seed)
    chain = _training_chain(flags)
    steps = chain.num_timesteps
    plan = probe.plan(num_images, steps, steps, flags.run.seed, dataset.num_images)
    draws = probe.fixed_draws(images.to(dist_util.dev()), plan, flags.run.seed, cond)
    autocast = networks.autocast(flags, dist_util.dev())

    def losses():
        with autocast():
            return probe.losses(model.forward, chain, draws, flags.sample.batch_size)

    return losses, plan


def _training_chain(flags):
    """The checkpoint's, at the timesteps that it was trained on, and not those of the sampling."""
    path, chain = flags.sample.model_path, flags.diffusion
    trained, source = checkpoint.config_of(path)
    known = trained.get("diffusion", {})
    if known:
        chain = config.as_trained(type(chain), known, flags.given, source)
    steps = known.get("timestep_respacing", "")
    return factories.create_chain(dataclasses.asdict(chain) | {"timestep_respacing": steps})


def _log_losses(before, after, plan):
    """mse first, where there is one; a rise is paired image by image."""
    for name in [term for term in ("mse", "vb", "loss") if term in before]:
        everything = [torch.ones_like(plan.t, dtype=torch.bool)]
        (old,), (new,) = (plan.means(x[name], everything) for x in (before, after))
        (error,) = plan.errors(after[name] - before[name], everything)
        logger.log(
            f"{name} on {len(before[name])} images: {old:.5g} before, {new:.5g} after, "
            f"rise {new - old:.3g} +- {error:.2g}"
        )
