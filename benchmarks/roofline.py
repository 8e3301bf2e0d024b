"""Predict, without a GPU, what the paper's three configurations cost on one.

    python benchmarks/roofline.py --gpu H100 --preset cifar10

Every operator of a training and of a sampling step is counted on the fake device of
tests/gpu_ready. A kernel takes the larger of bytes / bandwidth and FLOPs / rate, and no less than
LEAST; a step takes the larger of their sum and of the host's time to launch them, or their sum
alone by --cuda_graphs True. A row is named as the row of `bench.py --suite gpu --json FILE` that it
is to be compared with; --measured FILE puts that beside.
"""

import argparse
import contextlib
import dataclasses
import functools
import itertools
import json
import sys
import tempfile
from pathlib import Path
from unittest import mock

sys.path.append(str(Path(__file__).parents[1] / "tests" / "gpu_ready"))


@dataclasses.dataclass(frozen=True)
class Gpu:
    """Peaks by its data sheet, of dense matrices: bytes/s of its memory; FLOP/s of bf16 (and fp16),
    of tf32, and of fp32 without tensor cores."""

    bandwidth: float
    bf16: float
    tf32: float
    fp32: float

    def rate(self, kind: str, dtype: str) -> float:
        """FLOP/s at the peak: in fp32, convolutions and products are tf32, attention is not."""
        if dtype in ("bfloat16", "float16"):
            return self.bf16
        return self.fp32 if kind == "attention" else self.tf32


GPUS = {
    "H100": Gpu(3.35e12, 989e12, 494e12, 67e12),  # NVIDIA H100 data sheet, SXM5, 80 GB
    "H200": Gpu(4.8e12, 989e12, 494e12, 67e12),  # NVIDIA H200 data sheet, SXM, 141 GB
    "A100": Gpu(2.04e12, 312e12, 156e12, 19.5e12),  # NVIDIA A100 data sheet, SXM4, 80 GB
    "RTX4090": Gpu(1.01e12, 165e12, 82.6e12, 82.6e12),  # NVIDIA Ada architecture paper, 24 GB
}
# The shares of those peaks that layers of these sizes reach. Assumed, but for what cifar10 measured
# (torch 2.11): 0.4 of the bandwidth makes its steps by CUDA graphs on an H100 34 ms in bf16 and 69
# in fp32, where 38 and 67 were measured; a kernel took the host 44 us beside an H200, 61 an H100
BANDWIDTH = 0.4
REACHED = {"conv": 0.45, "matmul": 0.5, "attention": 0.3}
LEAST = 2e-6  # s, a small kernel on the device
EAGER, COMPILED = 50e-6, 2e-6  # s, a kernel on the host: Python, autograd, launch
# When compiled, all operators between two of these become one kernel.
OWN = ("conv", "mm", "attention", "norm", "_fused", "_foreach", "randn")

SAMPLES, STEPS, IMAGES = 500, 20, 50_000
CHAIN = 7  # steps that are counted: they and x_T take the eight noises that are drawn at once
ROWS = {  # optimizer or "" to sample, dtype, norms fused, compiled
    "train step, flatdiff, norms unfused": ("adam", "fp32", False, False),
    "train step, flatdiff": ("adam", "fp32", True, False),
    "train step, bf16, norms unfused": ("adam", "bf16", False, False),
    "train step, bf16": ("adam", "bf16", True, False),
    "train step, bf16 compiled": ("adam", "bf16", True, True),
    "SAM step, bf16": ("adam-sam", "bf16", True, False),
    "SAM step, bf16 compiled": ("adam-sam", "bf16", True, True),
    f"sampling, {STEPS} steps, bf16, norms unfused": ("", "bf16", False, False),
    f"sampling, {STEPS} steps, bf16": ("", "bf16", True, False),
    f"sampling, {STEPS} steps, bf16 compiled": ("", "bf16", True, True),
}
HEAD = "row", "kernels", "GB", "TFLOP", "device ms", "host ms", "step ms", "of peak"
HEAD += "images/s", "measured, ratio"


@dataclasses.dataclass(frozen=True)
class Step:
    """What a step asks for; seconds on the device, on the host, and of its FLOPs at the peak."""

    images: float  # that it finishes
    kernels: float
    bytes: float
    flops: float
    device: float
    host: float
    least: float

    @property
    def seconds(self) -> float:
        return max(self.device, self.host)

    @property
    def speed(self) -> float:
        """Images a second."""
        return self.images / self.seconds

    def cells(self, measured: float | None) -> list[str]:
        """As HEAD has them; `measured`: images/s, or None."""
        slower = "*" if self.host > self.device else ""
        return [
            f"{self.kernels:,.0f}",
            f"{self.bytes / 1e9:.1f}",
            f"{self.flops / 1e12:.2f}",
            f"{self.device * 1e3:.1f}",
            f"{self.host * 1e3:.1f}{slower}",
            f"{self.seconds * 1e3:.1f}",
            f"{self.least / self.seconds:.0%}",
            f"{self.speed:.4g}",
            f"{measured:.4g}, {measured / self.speed:.2f}" if measured else "",
        ]


def main():
    args = parse()
    from configs import GPU
    from fakecuda import device  # before torch

    measured = measurements(args.measured)
    for preset in args.preset.split(",") if args.preset else GPU:
        steps = predict(GPU[preset], GPUS[args.gpu], device)
        print(f"\n{preset} on {args.gpu}, batch {GPU[preset].batch}, sampling {SAMPLES} at once\n")
        rows = [[n, *step.cells(measured.get((preset, n)))] for n, step in steps.items()]
        lines = [HEAD, ["---"] * len(HEAD), *rows]
        print("\n".join(f"| {' | '.join(line)} |" for line in lines))
        print(f"\n{summary(steps)}")
    print("\n*: the host is slower than the device")


def measurements(path: str) -> dict[tuple[str, str], float]:
    """images/s by config and row, of what bench.py wrote."""
    rows = json.loads(Path(path).read_text())["rows"] if path else []
    speeds = [row for row in rows if row["unit"] == "images/s"]
    return {(r["config"].removesuffix(f"x{SAMPLES}"), r["name"]): r["ours"] for r in speeds}


def summary(steps: dict[str, Step]) -> str:
    adam, sam = (steps[f"{name} step, bf16"].seconds for name in ("train", "SAM"))
    hours = (
        f"{IMAGES / step.speed / 3600:.2f} h ({name.partition('steps, ')[2]})"
        for name, step in steps.items()
        if name.startswith("sampling")
    )
    return f"SAM: {sam / adam:.2f} x Adam. {IMAGES:,} images at {STEPS} steps: {', '.join(hours)}"


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--gpu", choices=GPUS, default="H100", help="whose peaks are taken")
    add("--preset", default="", help="of cifar10, lsun_tower64, ffhq64; empty: all")
    add("--measured", default="", help="json of bench.py --suite gpu; empty: none")
    return parser.parse_args()


def predict(config, gpu: Gpu, device) -> dict[str, Step]:
    """The steps by the names of ROWS. device: opens the fake one, and yields its watch."""

    @functools.cache
    def calls(*asked):
        with device() as watch:
            return counted(watch, config, *asked)

    steps = {}
    for name, (optimizer, dtype, fused, compiled) in ROWS.items():
        count, share = (1, config.batch) if optimizer else (CHAIN, SAMPLES / STEPS)
        steps[name] = step(gpu, calls(optimizer, dtype, fused), compiled, count, share)
    return steps


def counted(watch, config, optimizer, dtype, fused_norm):
    """The calls of a training step, or of CHAIN sampling steps."""
    import configs
    import torch

    from flatdiff.kernels import gpu_norm
    from flatdiff.models import generate, networks
    from flatdiff.train import starting
    from flatdiff.train.train_util import TrainLoop
    from flatdiff.world import dist_util, logger

    more = "" if optimizer else f" --timestep_respacing {CHAIN}"
    flags = configs.parse(f"{config.flags}{more} --ema_rate 0.9999")
    with contextlib.ExitStack() as held:
        logger.configure(held.enter_context(tempfile.TemporaryDirectory()), format_strs=[])
        if not fused_norm:
            held.enter_context(mock.patch.object(gpu_norm, "runs", lambda *_: False))
        model, diffusion = networks.build(flags.model, flags.diffusion)
        networks.place(model)
        side = model.image_size
        if optimizer:
            chosen = {"optimizer": optimizer, "rho": 0.1, "batch_size": config.batch}
            chosen["schedule_sampler"] = None  # uniform
            arguments = starting.loop_arguments(flags.train) | chosen
            given = {"model": model, "diffusion": diffusion, "dtype": dtype}
            loop = TrainLoop(data=None, **given, **arguments)
            images = torch.empty(config.batch, 3, side, side)
            for _ in range(3):  # the first make the optimizer's state, and log SAM's climb
                watch.forget()
                loop.run_step(images, {})
        else:
            model.eval()
            with networks.casting(dtype, dist_util.dev())():
                generate.sample_images(model, diffusion, range(SAMPLES), (3, side, side))
    return watch.calls


def step(gpu: Gpu, calls, compiled: bool, count: int, images: float) -> Step:
    """One step of the `count` that were counted."""
    calls = list(joined(calls) if compiled else calls)
    rates = [gpu.rate(call.kind, call.dtype) for call in calls]
    device = sum(
        max(
            call.bytes / (gpu.bandwidth * BANDWIDTH),
            call.flops / (rate * REACHED[call.kind]) if call.flops else 0,
            call.kernels * LEAST,
        )
        for call, rate in zip(calls, rates)
    )
    kernels = sum(call.kernels for call in calls)
    host = kernels * (COMPILED if compiled else EAGER)
    flops = [call.flops for call in calls]
    least = sum(n / rate for n, rate in zip(flops, rates))
    total = kernels, sum(call.bytes for call in calls), sum(flops), device, host, least
    return Step(images, *(value / count for value in total))


def joined(calls):
    """Each run of elementwise operators as one kernel, which moves what the largest one moved."""

    def own(call):
        return any(part in call.name for part in OWN)

    for alone, run in itertools.groupby(calls, own):
        if alone:
            yield from run
        else:
            yield dataclasses.replace(max(run, key=lambda call: call.bytes), kernels=1)


if __name__ == "__main__":
    main()
