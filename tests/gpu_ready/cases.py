"""Runs what the package does on the fake device, and writes as JSON what was asked of it.

    python tests/gpu_ready/cases.py [NAME ...]       # all cases, or some
    python tests/gpu_ready/cases.py --write-budget   # budget.json: what is asked for today

A process of its own, since the device must be there before torch. Each case runs once before it is
counted: tables, the optimizer's state and SAM's first looks at its climb are made then.
"""

import fakecuda  # before torch

# isort: split

import contextlib
import functools
import json
import sys
import tempfile
import traceback
from pathlib import Path
from unittest import mock

import small
import torch
from faults import FAULTS

from flatdiff.chain import probe
from flatdiff.flags.choices import FLATNESS, GRADIENTS, SAMPLERS
from flatdiff.judge import evaluate, features, image_source, inception, lite0
from flatdiff.kernels import gpu_norm
from flatdiff.measure import exposure, exposure_bias, leak
from flatdiff.measure.chains import of_chain
from flatdiff.models import generate, networks
from flatdiff.quantization import grid, packing
from flatdiff.train.train_util import TrainLoop
from flatdiff.weights import hessian, perturb
from flatdiff.weights.basis import Place
from flatdiff.world import dist_util, logger

SIZE, BATCH, CHAIN = 8, 8, 2
IMAGES = torch.randn(BATCH, 3, SIZE, SIZE)
WIDER = {"channel_mult": "1,2", "num_heads": 2, "dropout": 0.1}
BUDGET = Path(__file__).with_name("budget.json")
PLAIN = "train bf16 adam, PyTorch's norm"
BUDGETED = "kernels", "bytes", "layout_changes", "waits"
KNOBS = {  # of measures
    "LPF": dict(sigma="1e-3", noise_scale="absolute", num_draws=4),
    "MC": dict(radius="1e-2", noise_scale="filter", num_draws=4),
    "HESSIAN": dict(num_draws=2, num_eigenvalues=1),
    "SHARPNESS": dict(noise_scale="canonical", steps=1),
    "LEAK": dict(num_draws=4),
    "MAP": dict(sigma="1e-3", noise_scale="absolute", num_draws=4),
    "DENSITY": dict(probes=2, steps=3),
    "SURFACE": dict(surface_points=3, surface_range=1.0),
    "EXPLAIN": dict(num_draws=4, bits="4", layer_bits="0"),
    "ROUNDING": dict(bits="4", quantizers="minmax", activations="none"),
}


def network(**flags):
    model, diffusion = small.network(**flags)
    return networks.place(model), diffusion


def counted(watch, run, begun=False):
    """Run, first without counting unless `begun`; say what the run asked for."""
    if not begun:
        run()
    watch.forget()
    run()
    return {
        "kernels": watch.kernels,
        "bytes": watch.bytes,
        "layout_changes": sum(watch.turned.values()),
        "waits": sum(watch.waits.values()),
        "flops": watch.flops,
        "turned": dict(watch.turned),
        "waited": dict(watch.waits),
        "doubles": dict(watch.doubles),
    }


def training(watch, optimizer, dtype, patch=contextlib.nullcontext):
    """A step, and where and of what dtype all is that a training keeps."""
    with patch():
        return step_of(watch, loop_of(optimizer, dtype, **WIDER if dtype == "bf16" else {}))


def loop_of(optimizer, dtype, **flags):
    """A training that has taken one step."""
    model, diffusion = network(**flags)
    kept = {"ema_rate": "0.9", "use_swa": True, "swa_window": 1, "end_step": 99}
    how = {"log_interval": 100, "save_interval": 100, "batch_size": BATCH, "lr": 1e-3}
    how |= {"rho": 0.1} if GRADIENTS[optimizer].radius else {}
    given = {"model": model, "diffusion": diffusion, "optimizer": optimizer, "dtype": dtype}
    loop = TrainLoop(data=None, **given, **how, **kept)
    loop.rho, rho = 0, loop.rho  # one pass makes the tables and the optimizer's state, too
    loop.run_step(IMAGES, {})
    loop.rho = rho
    return loop


def step_of(watch, loop):
    # SAM looks at its climb at the first one after a line of the log, and at climbs 1, 2, 4, ...
    loop.climbs.due, loop.climbs.num_climbs = False, 2
    found = counted(watch, lambda: loop.run_step(IMAGES, {}), begun=True)
    averages = [w for average in loop.averages.values() for w in average.weights]
    moments = [m for state in loop.opt.state.values() for m in state.values()]
    tensors = [*loop.weights, *(w.grad for w in loop.weights), *averages, *moments]
    tensors += loop.history[-1].values()
    kinds = {x.dtype for x in tensors} - {torch.int64}  # timesteps
    return found | {
        "kinds": sorted(str(kind) for kind in kinds),
        "devices": sorted({str(x.device) for x in tensors}),
        "averaged": [average.count for average in loop.averages.values()],
    }


def sampling(watch, sampler, dtype="bf16", rounded=None):
    """A batch of images; `rounded`: how weights, and inputs, of 8 bits are kept."""
    model, diffusion = network(**WIDER, timestep_respacing=str(CHAIN))
    model.eval()
    layers = grid.layers_of(model)
    with torch.no_grad():
        weights = grid.quantize_weights(layers, grid.Quantizer(8, "channel", True))
        if rounded == "packed":
            for name, layer in layers.items():
                packing.keep_packed(layer, weights[name])
        if rounded == "simulate":
            values = [weights[name].dequantize() for name in layers]
            perturb.replace(values)([layer.weight for layer in layers.values()])
            for layer in layers.values():
                grid.quantize_inputs(layer, 8)
    shape = (3, SIZE, SIZE)

    def batch():
        with networks.casting(dtype, dist_util.dev())():
            generate.sample_images(model, diffusion, range(BATCH), shape, sampler=sampler)

    return counted(watch, batch)


def subject(dtype):
    """A network under study, whose losses have been measured once."""
    model, diffusion = network(diffusion_steps=1000)
    given = {"batch_size": BATCH, "dtype": dtype}
    made = of_chain("a", __file__, model.eval(), diffusion, (IMAGES, {}, BATCH), **given)
    assert len(made.spare) == len(made.weights)
    vars(made)["_hessian_batch"] = BATCH  # else it would be tried
    return made


def flatness(watch, kind, dtype="fp32"):
    """The last task of a measure: a draw of weight noise, a point, a probe of the trace."""
    measure = FLATNESS[kind].load()(**KNOBS[kind])
    leak.NEAR = float("inf")  # numbers there are none, to be the same
    *_, task = measure.tasks(subject(dtype)).values()
    return counted(watch, task, begun=True)


def hessian_product(watch):
    """What Lanczos' iteration does in each of its steps."""
    of = subject("fp32")
    product, vector = of.hessian_product(), torch.randn(of.num_weights, dtype=torch.float64)
    return counted(watch, lambda: product(vector), begun=True)


def lanczos(watch):
    """Four steps of it, beside their products."""
    of = subject("fp32")
    place = Place(device=dist_util.dev(), dtype=torch.float32)

    def run():
        hessian.top_eigenvalues(lambda v: v * 2, of.num_weights, 1, 0, 4, place=place)

    return counted(watch, run, begun=True)


def exposed(watch, part):
    """A part of exposure bias: the chain noised as in training, or walked from the prior."""
    model, diffusion = network(**WIDER, timestep_respacing=str(CHAIN))
    t = probe.timesteps(BATCH, CHAIN, 0)
    batches = [exposure.batch(torch.arange(BATCH), IMAGES, t, {}, 0)]
    given = model.eval(), diffusion, batches, [exposure_bias.NORMAL], dist_util.gather_rows
    with networks.casting("bf16", dist_util.dev())():
        return counted(watch, exposure_bias.parts(*given)[part])


def judged(watch, name, kind, compare):
    """Features of two batches of images, and the metrics made of them."""
    network = kind().eval().requires_grad_(False).to(dist_util.dev())
    made = features.Features(name, network, "0" * 16)
    images = image_source.open_images(small.images(2 * BATCH))

    def extract():
        made.extract(images, BATCH)

    def metrics():
        known = evaluate.measure(images, made, BATCH)
        evaluate.compare(known, known, made)

    return counted(watch, metrics if compare else extract, begun=True)


def known(watch):
    """Operators whose cost is known in closed form; see the test."""
    x = torch.randn(2, 32, 4, 4).cuda().contiguous(memory_format=torch.channels_last)
    weight = torch.randn(64, 32, 3, 3, device="cuda").to(memory_format=torch.channels_last)
    runs = {
        "sum": lambda: x + x,
        "in place": lambda: x.add_(1),
        "view": lambda: x[:, :16].flatten(2),
        "conv": lambda: torch.conv2d(x, weight, padding=1),
        "conv by channels": lambda: torch.conv2d(x.contiguous(), weight, padding=1),
        "foreach": lambda: torch._foreach_add_([x[0, 0].clone() for _ in range(111)], 1),
        "attention": lambda: torch.nn.functional.scaled_dot_product_attention(x, x, x),
        "mask": lambda: x[x > 0],
        "if": lambda: bool(x.any()),
        "scalar": lambda: x * torch.ones(()),
    }
    return {name: counted(watch, run) for name, run in runs.items()}


def pytorchs_norm():
    """A patch: group norms are PyTorch's, as where there is no Triton."""
    return mock.patch.object(gpu_norm, "runs", lambda *_: False)


@functools.cache
def begun_loop(optimizer):
    return loop_of(optimizer, "bf16")


def planted(watch, fault):
    """A training step with a fault in it, which the watch should tell."""
    patch, optimizer = FAULTS[fault]
    loop = begun_loop(optimizer)
    with patch():
        return step_of(watch, loop)


partial = functools.partial
CASES = {
    f"train {dtype} {name}": partial(training, optimizer=name, dtype=dtype)
    for dtype in ("fp32", "bf16", "fp16")
    for name in GRADIENTS
    if dtype == "bf16" or name in ("adam", "adam-sam")
}
CASES[PLAIN] = partial(CASES["train bf16 adam"], patch=pytorchs_norm)
OF_SHORT = {"shifted": "shifted cutoff=0"}  # chains, as the one here
CASES |= {f"sample {n}": partial(sampling, sampler=OF_SHORT.get(n, n)) for n in SAMPLERS}
CASES |= {
    f"sample {kind}": partial(sampling, sampler="ddim", rounded=kind)
    for kind in ("simulate", "packed")
}
CASES |= {name: partial(flatness, kind=name) for name in FLATNESS}
CASES["LPF bf16"] = partial(flatness, kind="LPF", dtype="bf16")
CASES |= {"Hessian product": hessian_product, "Lanczos": lanczos}
CHAINS = "training", "spread", "prior 0.0 1.0"
CASES |= {f"exposure {part}": partial(exposed, part=part) for part in CHAINS}
CASES["judge lite0"] = partial(judged, name="lite0", kind=lite0.Lite0, compare=True)
CASES["judge inception"] = partial(
    judged, name="inception", kind=inception.Inception, compare=False
)
CASES["known"] = known
CASES |= {f"fault {name}": partial(planted, fault=name) for name in FAULTS}


def main(names):
    """{case: what it asked for, or {"error": ...}}"""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        logger.configure(folder, format_strs=[])
        for name in names or CASES:
            with fakecuda.device() as watch:
                try:
                    found[name] = CASES[name](watch)
                except Exception:
                    found[name] = {"error": traceback.format_exc()}
    return found


def budget(found):
    """What budget.json holds of the cases: a line each."""
    lines = (
        f'"{name}": {json.dumps({key: case[key] for key in BUDGETED})}'
        for name, case in found.items()
        if not name.startswith(("fault", "known"))
    )
    return "{{\n{}\n}}\n".format(",\n".join(lines))


if __name__ == "__main__":
    if sys.argv[1:] == ["--write-budget"]:
        BUDGET.write_text(budget(main([])))
    else:
        json.dump(main(sys.argv[1:]), sys.stdout, indent=1)
