"""What two power EMAs cost a training step, as a share of it, measured in the same steps.

    python benchmarks/posthoc_cost.py --preset cifar10 --batch_size 128

A step of another batch size has the same updates of the averages. What a snapshot costs is the time
of its writing over the steps between two.
"""

import statistics
import tempfile
import time

import torch

from flatdiff.flags import config


def main():
    groups = {"run": config.RunFlags, "train": config.TrainFlags, "model": config.ModelFlags}
    config.run(__doc__, measure, **groups, diffusion=config.DiffusionFlags)


def measure(flags, turns=5):
    from flatdiff.models import networks
    from flatdiff.train import averages, starting
    from flatdiff.train.train_util import TrainLoop
    from flatdiff.world import dist_util, logger

    model, diffusion = networks.build(flags.model, flags.diffusion)
    networks.place(model)
    given = starting.loop_arguments(flags.train) | {"schedule_sampler": None, "posthoc_ema": 1}
    loop = TrainLoop(model=model, diffusion=diffusion, data=None, dtype=flags.run.dtype, **given)
    tracks = [a for name, a in loop.averages.items() if "power" in name]
    loop.averages = {k: a for k, a in loop.averages.items() if a not in tracks}
    images = torch.randn(flags.train.batch_size, 3, model.image_size, model.image_size)

    def seconds(act):
        start = time.perf_counter()
        act()
        if dist_util.dev().type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    def update():
        for track in tracks:
            track.update(loop.weights)

    pairs = [
        (seconds(lambda: loop.run_step(images, {})), seconds(update)) for _ in range(turns + 1)
    ]
    step, both = map(statistics.median, zip(*pairs[1:]))
    labels = [text.replace(" ", "_") for text in averages.tracks()]
    loop.averages |= dict(zip((f"average_{label}" for label in labels), tracks))
    with tempfile.TemporaryDirectory() as folder:
        logger.configure(folder, format_strs=[])
        write = seconds(lambda: averages.snapshot(loop, folder))
    millions = sum(w.numel() for w in loop.weights) / 1e6
    print(
        f"{dist_util.dev()}, {millions:.1f} M weights, {len(images)} images: a step {step:.3g} s, "
        f"the averages {both:.3g} s, {both / step:.2%} of it; a snapshot {write:.3g} s"
    )


if __name__ == "__main__":
    main()
