"""What CUDA graphs save of a training step: milliseconds with and without, one after the other.

    python benchmarks/graphs.py

S is a network of 1.7 M parameters at 32 x 32, batch 32; cifar10 that preset's, batch 128.
"""

import shlex
import statistics
import time

import torch

from flatdiff import script_util
from flatdiff.flags import config, presets
from flatdiff.models import networks
from flatdiff.train.train_util import TrainLoop
from flatdiff.world.arithmetic import arithmetic

SMALL = "--image_size 32 --num_channels 32 --num_res_blocks 1 --learn_sigma True"
NETWORKS = {"S": (SMALL, 32), "cifar10": (presets.PRESETS["cifar10"], 128)}
CASES = [("fp32", "adam"), ("bf16", "adam"), ("bf16", "adam-sam")]
STEPS, ROUNDS = 8, 5


def main():
    if not torch.cuda.is_available():
        raise SystemExit("CUDA graphs need a GPU, and there is none here")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    print(
        "| network | dtype | gradient | ms | ms by graphs | ratio |\n|---|---|---|---:|---:|---:|"
    )
    for name, (dtype, optimizer) in ((n, c) for n in NETWORKS for c in CASES):
        loops = [loop_of(name, dtype, optimizer, graphs) for graphs in (False, True)]
        with arithmetic(tf32=True, deterministic=False):
            rounds = [[milliseconds(loop) for loop in loops] for _ in range(ROUNDS + 1)][1:]
        plain, graphed = map(statistics.median, zip(*rounds))
        ratio = statistics.median(a / b for a, b in rounds)
        what = f"| {name} | {dtype} | {optimizer} |"
        print(f"{what} {plain:.1f} | {graphed:.1f} | {ratio:.2f} |", flush=True)


def loop_of(name, dtype, optimizer, cuda_graphs):
    text, batch = NETWORKS[name]
    words = shlex.split(text)
    groups = {"model": config.ModelFlags, "diffusion": config.DiffusionFlags}
    flags = config.parse("", words, train=config.TrainFlags, **groups)
    told = vars(flags.model) | vars(flags.diffusion)
    known = script_util.model_and_diffusion_defaults()
    model, diffusion = script_util.create_model_and_diffusion(
        **{k: v for k, v in told.items() if k in known}
    )
    size = flags.model.image_size
    images = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return TrainLoop(
        model=networks.place(model),
        diffusion=diffusion,
        data=iter(lambda: (images, {}), None),
        batch_size=batch,
        dtype=dtype,
        optimizer=optimizer,
        cuda_graphs=cuda_graphs,
    )


def milliseconds(loop):
    """Of a step, the mean of some."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(STEPS):
        loop.run_step(*next(loop.data))
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / STEPS * 1e3


if __name__ == "__main__":
    main()
