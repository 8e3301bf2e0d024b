"""50,000 tiny images, decoded anew in each epoch: memory and file handles stay flat.

    PYTHONPATH=. python -m benchmarks.faults.many_images

Of a folder and of a zip, in this process and by workers. Prints the memory of all processes and the
open files along an epoch, and how long looking at every image once takes; exit status 1 where the
last tenth holds 32 MiB or 8 handles more than the second one.
"""

import argparse
import os
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

BATCH, TENTHS = 100, 10  # images; points of an epoch
MORE, OPEN = 32, 8  # MiB, and handles that come and go with what is just being read


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=50000)
    parser.add_argument("--folder", default="runs/many_images")
    args = parser.parse_args()
    from flatdiff.data import readable
    from flatdiff.data.image_datasets import ImageDataset

    folder, archive = made(Path(args.folder), args.images)
    os.environ["XDG_CACHE_HOME"] = args.folder
    grown = 0
    for path in (folder, archive):
        dataset = ImageDataset(str(path), 8, cache_bytes=0)
        start = time.perf_counter()
        readable.remember(dataset.source, {})  # so that what follows is the same in each run
        broken = readable.decoded(range(dataset.num_images), dataset.source.open)
        seconds = time.perf_counter() - start
        print(f"{path.name}: {len(broken)} of {dataset.num_images} broken, {seconds:.0f} s")
        for workers in (0, 2):
            grown += epoch(dataset, workers)
    return int(grown > 0)


def made(folder: Path, count: int) -> tuple[Path, Path]:
    """The images as files and in a zip, each once."""
    images, archive = folder / "images", folder / "images.zip"
    if not archive.exists():
        images.mkdir(parents=True, exist_ok=True)
        draw = np.random.default_rng(0)
        with zipfile.ZipFile(archive, "w") as file:
            for i in range(count):
                path = images / f"{i:06d}.png"
                pixels = draw.integers(0, 256, (9, 9, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(path)
                file.write(path, path.name)
    return images, archive


def epoch(dataset, workers: int) -> bool:
    """Walk through an epoch and two batches of the next; whether anything grows."""
    from flatdiff.data.image_datasets import Batches, loader

    steps = dataset.num_images // BATCH
    batches = loader(Batches(dataset, BATCH, random_crop=True), num_workers=workers)
    seen = []
    for step in range(steps + 2):
        next(batches)
        if step % (steps // TENTHS) == steps // TENTHS - 1:
            seen.append((held(), handles()))
    batches.close()
    memory, files = zip(*seen)
    print(f"  {workers} workers: MiB {[round(m) for m in memory]}, handles {list(files)}")
    return memory[-1] > memory[1] + MORE or files[-1] > files[1] + OPEN


def processes() -> list[str]:
    """This one and its children."""
    own = str(os.getpid())
    children = Path(f"/proc/{own}/task/{own}/children").read_text().split()
    return [own, *children]


def held() -> float:
    """MiB of memory of their own (the proportional set, which counts what is shared once)."""
    total = 0
    for pid in processes():
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def handles() -> int:
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in processes())


if __name__ == "__main__":
    sys.exit(main())
