"""OpenCV against Pillow, reading a file and making it a square: how often the pixels are the same,
and times faster, turn by turn.

    python benchmarks/decoders.py

Of a photo-like image, as png and jpg of three sizes, to 64 pixels: reading alone; all of it, with
reading or with everything by OpenCV; halving by means (BOX, INTER_AREA), and the last resize
(BICUBIC, INTER_CUBIC). Last, how many damaged files each takes without a word.
"""

import contextlib
import io
import statistics
import time

import cv2
import numpy as np
from PIL import Image

SIDE, TURNS = 64, 21


def photo(side: int) -> Image.Image:
    """Noise of every scale, with edges."""
    rng, image = np.random.default_rng(0), np.zeros((side, side, 3))
    for n in (4, 16, 64, side):
        part = Image.fromarray(rng.integers(0, 256, (n, n, 3), np.uint8)).resize((side, side))
        image += np.asarray(part, float) / n**0.5
    image[side // 3 : side // 2, side // 4 : side // 2] *= 0.3
    return Image.fromarray((255 * image / image.max()).astype(np.uint8))


def pillow_read(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def cv2_read(data):
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), 4)


def pillow_halve(x):
    image = Image.fromarray(x)
    return np.asarray(image.resize((x.shape[1] // 2, x.shape[0] // 2), Image.Resampling.BOX))


def cv2_halve(x):
    return cv2.resize(x, (x.shape[1] // 2, x.shape[0] // 2), interpolation=cv2.INTER_AREA)


def pillow_last(x):
    return np.asarray(Image.fromarray(x).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def cv2_last(x):
    return cv2.resize(x, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)


def whole(read, halve, last):
    def make(data):
        x = read(data)
        while min(x.shape[:2]) >= 2 * SIDE:
            x = halve(x)
        return last(x)

    return make


def compare(name: str, theirs, ours, x) -> None:
    """Print the share of equal values, the largest difference, and Pillow's time over OpenCV's."""
    a, b = np.asarray(ours(x), int), np.asarray(theirs(x), int)
    ratios = []
    for turn in range(TURNS):
        times = {}
        for f in (ours, theirs) if turn % 2 else (theirs, ours):
            start = time.process_time()
            f(x)
            times[f] = time.process_time() - start
        ratios.append(times[ours] / times[theirs])
    share, most = np.mean(a == b), np.abs(a - b).max()
    print(
        f"{name:24} equal {share:7.2%}  most {most:3d}  faster {statistics.median(ratios):5.2f}",
        flush=True,
    )


def damaged(reader, kind: str, count: int = 50) -> int:
    """How many of the files that end too early are read all the same."""
    file, taken = io.BytesIO(), 0
    photo(100).save(file, kind)
    for end in np.linspace(0.3, 0.95, count) * len(file.getvalue()):
        with contextlib.suppress(OSError, SyntaxError, cv2.error):
            taken += reader(file.getvalue()[: int(end)]) is not None
    return taken


def main():
    cv2.setNumThreads(1)
    print(f"OpenCV {cv2.__version__}, Pillow {Image.__version__}")
    for side in (100, 256, 1000):
        image, pixels = photo(side), np.asarray(photo(side))
        small = pixels[:100, :100]
        for kind in ("png", "jpeg"):
            file = io.BytesIO()
            image.save(file, kind)
            data = file.getvalue()
            compare(f"{side} {kind}: reading", cv2_read, pillow_read, data)
            rest = pillow_halve, pillow_last
            ours, read = whole(pillow_read, *rest), whole(cv2_read, *rest)
            compare(f"{side} {kind}: all, read so", read, ours, data)
            compare(f"{side} {kind}: all", whole(cv2_read, cv2_halve, cv2_last), ours, data)
        compare(f"{side}: halving", cv2_halve, pillow_halve, pixels)
        compare("100: the last resize", cv2_last, pillow_last, small)
    for kind in ("png", "jpeg"):
        pillow, opencv = (damaged(read, kind) for read in (pillow_read, cv2_read))
        print(f"of 50 {kind} files cut short Pillow takes {pillow}, OpenCV {opencv}")


if __name__ == "__main__":
    main()
