"""What --quant does to a loaded network before it is sampled or measured, and what the log says.

Quantized weights are a place to stand, as any other move of weights is: `perturb.at` holds the
network there. In sampling, the loss is measured before and after on the same draws, so its rise is
known far better than the loss itself. All ranks do the same; the first one writes. The network is
called by `forward`, past torch.compile, which would not notice new layers.
"""

import contextlib
import dataclasses
import functools
import math
import os
from types import SimpleNamespace

import torch

from ..chain import probe
from ..flags import config
from ..models import generate, networks, run_util, sample_records
from ..quantization import int8, packing, static
from ..quantization.grid import BITS, Quantizer, layers_of, quantize_inputs, quantize_weights
from ..rng import INT8, generator
from ..store import checkpoint, disk
from ..weights import perturb
from ..world import dist_util, logger
from ..world.arithmetic import arithmetic
from . import explained
from .calibration import NO_IMAGES, Calibration
from .chains import of_chain
from .quantizers import ends_of

ROUNDING = [f.name for f in dataclasses.fields(config.RoundingFlags) if f.metadata["fixed"]]
OF_QUANTIZED = ("quant_activations", "quant_act_bins", "quant_backend", "save_quantized", "explain")


def check(flags):
    """Raise ValueError for flags of rounding that do not go together, and for images that cannot be
    read, before anything is rounded."""
    path = flags.sample.model_path
    if path and not checkpoint.exists(path):
        return  # as whoever loads it says
    quant = settings(flags.quant, path, flags.given)
    if not quant.quant:
        return
    explained.check(quant, flags)
    if flags.data.data_dir:
        size = networks.flags_of(path, flags)["model"].image_size
        run_util.open_dataset(flags.data, size).image(0)
    elif _calibrates(quant, path):
        raise ValueError(NO_IMAGES)


def _calibrates(quant, path):
    """Whether the rounding looks at images; the codes of a packed file did so when it was made."""
    packed = path and "quant" in checkpoint.about(path)
    return quant.quant_act_bins or (_quantizer(quant).calibrated and not packed)


@contextlib.contextmanager
def quantized(model, flags, folder):
    """Hold the network as --quant and its companions say, to sample; yields the flags in force, and
    what samples are made of beside flags and files, as `generate.key` takes it.

    How weights are rounded is a packed file's own. Writes quantization_w8.csv (or so) into the
    folder, and the file of --save_quantized. Afterwards the network is what it was, unless the
    backend (packed, int8) has put other layers in. ValueError for flags that do not go together, or
    that contradict the file.
    """
    path = flags.sample.model_path
    quant = settings(flags.quant, path, flags.given)
    if not quant.quant:
        yield quant, {}
        return
    explained.check(quant, flags)
    calibration = Calibration(model, networks.chain_of(path, flags), flags)
    made_of = {"calibrated": calibration.seen} if _calibrates(quant, path) else {}
    _refuse_to_replace(quant, flags, folder, made_of)
    layers, weights = _rounded(model, path, quant, calibration)
    with torch.no_grad():
        _keep(model, layers, weights, quant, flags, folder)
        subject = _subject(model, flags)
        output = functools.partial(_output, model, calibration.chain)
        fp32 = quant.quant_backend == "int8" and output()
    if quant.explain:
        explained.write(subject, quant, calibration, folder)
    with _at(layers, weights, quant, calibration) as hooks:
        with torch.no_grad():
            if quant.quant_backend == "int8":
                _use_int8(output, layers, weights, quant, hooks, fp32)
            if subject:
                _log_losses(subject)
        del subject, weights  # the sampling wants their memory
        yield quant, made_of


def _refuse_to_replace(quant, flags, folder, made_of):
    """ValueError for samples of other settings under the name of those to come, before files of
    the same name are written."""
    if dist_util.rank() == 0:
        own = generate.key(SimpleNamespace(**vars(flags) | {"quant": quant}), **made_of)
        sample_records.refuse_to_replace(folder, flags.sample.num_samples, suffix(quant), own)


def _keep(model, layers, weights, quant, flags, folder):
    """Write what the rounding is: the log, the csv, and the file of packed weights."""
    tensors = packing.pack(model.state_dict(), weights)
    whole = sum(p.numel() for p in model.parameters())
    share = sum(layer.weight.numel() for layer in layers.values()) / whole
    of = f" of {quant.quant_group}" if quant.quant_granularity == "group" else ""
    grid = f"per {quant.quant_granularity}{of}, {quant.quant_range}"
    logger.log(
        f"quantized: {len(layers)} layers to {quant.quant} bits ({grid}"
        f"{', symmetric' if quant.quant_symmetric else ''}), {share:.1%} of the weights"
    )
    megabytes = sum(t.nbytes for t in tensors.values()) / 1e6
    logger.log(f"size: {whole * 4 / 1e6:.2f} MB in fp32, {megabytes:.2f} MB packed")
    _log_errors(layers, weights, os.path.join(folder, f"quantization{suffix(quant)}.csv"))
    if quant.save_quantized and dist_util.rank() == 0:
        checkpoint.save_tensors(tensors, quant.save_quantized, _about(flags, quant))
        logger.log(f"saved {checkpoint.absolute(quant.save_quantized)}")


@contextlib.contextmanager
def rounded(model, path, flags):
    """Hold the network of the file `path` at its rounded weights, to measure it there; where flags
    have no `quant` group, it stays as it is."""
    with contextlib.ExitStack() as held:
        if hasattr(flags, "quant"):
            quant = settings(flags.quant, path, flags.given)
            calibration = Calibration(model, networks.chain_of(path, flags), flags)
            rounded = _rounded(model, path, quant, calibration)
            held.enter_context(_at(*rounded, quant, calibration))
        yield


def without_quant(flags):
    """Return flags without their `quant` group, if that is off: keys do not name it then."""
    quant = getattr(flags, "quant", None)
    if quant is None or settings(quant, "", {}).quant:
        return flags
    return SimpleNamespace(**{name: v for name, v in vars(flags).items() if name != "quant"})


@contextlib.contextmanager
def _at(layers, weights, quant, calibration):
    """Hold layers at their quantized weights, and quantize their inputs; yields the hooks of those
    that are ranged image by image."""
    with contextlib.ExitStack() as held:
        bits, bins = quant.quant_activations, quant.quant_act_bins
        ranges = calibration.ranges(layers, bins) if bins else None
        if getattr(quant, "quant_backend", "") == "packed":
            for name, layer in layers.items():
                packing.keep_packed(layer, weights[name])
        else:
            rounding = functools.partial(_round, [weights[name] for name in layers])
            originals = [layer.weight for layer in layers.values()]
            held.enter_context(perturb.at(originals, rounding, measure=False))
        del weights
        if ranges:
            held.enter_context(static.held(calibration.model, layers, ranges, bits))
        by_image = layers.items() if bits and not ranges else ()
        hooks = {name: quantize_inputs(layer, bits) for name, layer in by_image}
        for hook in hooks.values():
            held.callback(hook.remove)
        yield hooks


def _round(quantized, weights):
    """Set w' = quantized, one weight at a time: a perturbation."""
    for w, q in zip(weights, quantized):
        w.copy_(q.dequantize())


@torch.no_grad()
def _rounded(model, path, quant, calibration):
    """Return the layers that are quantized, and their weights: the file's own if packed."""
    layers = layers_of(model, [p for p in quant.quant_skip.split(",") if p])
    if stored := _stored(path, quant):
        if stored.keys() != layers.keys():
            raise ValueError(f"{path} has {len(stored)} packed weights, expected {len(layers)}")
        return layers, stored
    quantizer = _quantizer(quant)
    grams = calibration.grams(layers) if quantizer.calibrated else None
    return layers, quantize_weights(layers, quantizer, grams)


def _quantizer(quant):
    how = quant.quant_granularity, quant.quant_symmetric, ends_of(quant.quant_range)
    return Quantizer(quant.quant, *how, quant.quant_group)


def suffix(quant):
    """End the samples' name: _w8 for 8-bit weights, _w8a8 if inputs have 8 bits too."""
    inputs = f"a{quant.quant_activations}" if quant.quant_activations else ""
    return f"_w{quant.quant}{inputs}" if quant.quant else ""


def settings(quant, path, given):
    """Return the RoundingFlags or QuantFlags in force for the file `path`, checked."""
    if stored := path and checkpoint.about(path).get("quant"):
        quant = config.as_trained(type(quant), stored, given, path)
    for name in ("quant", "quant_activations"):
        if (bits := getattr(quant, name)) not in (0, *BITS):
            raise ValueError(f"--{name} {bits}: expected 2 to 8 bits, or 0 to stay in fp32")
    for name in OF_QUANTIZED:
        default = getattr(config.QuantFlags, name)
        if not quant.quant and getattr(quant, name, default) != default:
            raise ValueError(f"--{name} is for quantized weights only: give --quant 8 too")
    if quant.quant_act_bins and not quant.quant_activations:
        raise ValueError("--quant_act_bins fixes ranges of inputs: give --quant_activations 8 too")
    saved = getattr(quant, "save_quantized", "")
    if saved and not saved.endswith(".safetensors"):
        raise ValueError(f"--save_quantized {saved}: give a name in .safetensors")
    if getattr(quant, "quant_backend", "") != "int8":
        return quant
    if not (quant.quant_symmetric and quant.quant_activations):
        raise ValueError(
            "--quant_backend int8 multiplies integers centred on zero: give --quant_symmetric True "
            "and --quant_activations 8 too (or 7, on CPUs without VNNI)"
        )
    if quant.quant_granularity == "group" or quant.quant_act_bins:
        raise ValueError(
            "--quant_backend int8 has one grid a tensor or output channel, and each image's own "
            "range: leave --quant_granularity group and --quant_act_bins to simulate"
        )
    if dist_util.dev().type != "cpu":
        raise ValueError("--quant_backend int8 is for CPUs; on this device use simulate or packed")
    int8.check(quant.quant, quant.quant_activations)
    return quant


def _stored(path, quant):
    """Read the file's own packed weights, by layer, of the kind of `quant`; {} if it has none."""
    if "quant" not in checkpoint.about(path):
        return {}
    logger.log("the file's weights are quantized already: what follows counts from these")
    tensors = dist_util.load_state_dict(path, map_location=dist_util.dev())
    kind = quant.quant, quant.quant_granularity, quant.quant_symmetric, quant.quant_group
    with disk.reading(path):
        stored = packing.packed_weights(tensors)
        packing.check_settings(stored, *kind)
    return stored


def _about(flags, quant):
    """Return the header that lets a file of packed weights stand alone."""
    trained, _ = checkpoint.config_of(flags.sample.model_path)
    groups = trained or config.to_dict(flags)
    kept = {name: groups[name] for name in ("model", "diffusion", "classes") if name in groups}
    return kept | {"quant": {name: getattr(quant, name) for name in ROUNDING}}


def _use_int8(output, layers, weights, quant, hooks, fp32):
    """Put integers where they can be; say how far that is from the simulation that stands there."""
    simulated = output()
    convolutions = [name for name, layer in layers.items() if int8.suits(layer)]
    for name in convolutions:
        hooks[name].remove()
        int8.use_int8(layers[name], weights[name], quant.quant_activations)
    logger.log(
        f"int8 arithmetic in {len(convolutions)} layers: on noise, the network's output is "
        f"{_off(output(), simulated)} off the simulation's, which is "
        f"{_off(simulated, fp32)} off fp32's"
    )


def _output(model, chain):
    """Return what the network says to a noise at two timesteps of its training's chain."""
    size, device = model.image_size, dist_util.dev()
    x = torch.randn(2, 3, size, size, generator=generator(INT8)).to(device)
    labels = {} if model.num_classes is None else {"y": torch.zeros(2, dtype=int, device=device)}
    t = torch.tensor([chain.num_timesteps // 10, chain.num_timesteps * 9 // 10], device=device)
    return chain._wrap_model(model.forward)(x, chain._scale_timesteps(t), **labels)


def _off(output, reference):
    if not reference.any():  # as of a network that was never trained: there is nothing to share
        return f"{(output - reference).norm():.3g} (of zeros)"
    return f"{(output - reference).norm() / reference.norm():.2%}"


def _log_errors(layers, weights, path):
    """Log the distance ||w_q - w||, in all and layer by layer."""
    rows = []
    for name, layer in layers.items():
        norm = layer.weight.double().norm().item()
        distance = (weights[name].dequantize() - layer.weight).double().norm().item()
        row = {"layer": name, "num_weights": layer.weight.numel(), "norm": norm}
        rows.append(row | {"distance": distance, "relative_error": distance / (norm or math.inf)})
    total, whole = (sum(row[key] ** 2 for row in rows) ** 0.5 for key in ("distance", "norm"))
    share = total / (whole or math.inf)
    logger.log(f"distance ||w_q - w||: {total:.4g}, {share:.2%} of ||w||; largest:")
    for row in sorted(rows, key=lambda row: -row["relative_error"])[:5]:
        logger.log(f"  {row['relative_error']:8.2%}  {row['layer']}")
    if dist_util.rank() == 0:
        disk.write_csv(rows, path)


@arithmetic(tf32=False)
def _subject(model, flags):
    """Put the network on images of --data_dir and on the chain of the training, whatever the one
    that is sampled; None without images."""
    if not flags.data.data_dir:
        return None
    seed = flags.run.seed
    dataset = run_util.open_dataset(flags.data, model.image_size, model.num_classes, model.classes)
    num_images = max(probe.LEAST, min(flags.quant.num_images, dataset.num_images))
    images = *probe.images_of(dataset, num_images, seed), dataset.num_images
    path = flags.sample.model_path
    given = "", path, model, networks.chain_of(path, flags), images
    sizes = {"seed": seed, "batch_size": flags.sample.batch_size}

    def call(*args, **kwargs):  # which `forward` there is, `static.told` may have changed
        return model.forward(*args, **kwargs)

    return of_chain(*given, **sizes, dtype=networks.dtype_of(flags), call=call)


@arithmetic(tf32=False)
def _log_losses(subject):
    """Log the losses, mse first, where there is one; a rise is paired image by image."""
    rises = subject.measure() - subject.own
    means, errors = (of(rises)[:, 0].tolist() for of in (subject.means, subject.errors_of))
    for name, old, rise, error in zip(subject.terms, subject.at_w[:, 0].tolist(), means, errors):
        logger.log(
            f"{name} on {rises.shape[1]} images: {old:.5g} before, {old + rise:.5g} after, "
            f"rise {rise:.3g} +- {error:.2g}"
        )
