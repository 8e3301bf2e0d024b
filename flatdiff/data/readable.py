"""Which images can be read: each is decoded once before all are used, and none fails at step 7000.

What was found is kept in the cache for as long as names, sizes and times of the files stay.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ..bars import Bar
from ..judge.files import default_cache_dir, keep, kept
from ..store.disk import is_remote
from .image_files import Folder, Npz, Zip

BAR_FROM = 2000  # images whose decoding takes long enough for a progress bar
NAMED = 200  # broken images that a sentence names, each with its reason

Source = Folder | Zip | Npz


def broken(
    source: Source, share: tuple[int, int] = (0, 1), progress: bool = False, threads: int = 1
) -> dict[int, str]:
    """{index: what is wrong} of the images of a source that cannot be read.

    share: (k, n), the k-th of n parts alone is looked at, unless all is known from the cache; no
    image of a remote folder is. progress: show a bar. threads: that decode together.
    """
    if isinstance(source, Npz) or is_remote(_place(source)):
        return {}
    rank, ranks = share
    path = _path(source)
    if found := kept(path):
        return dict(zip(found["indices"].tolist(), found["reasons"].tolist()))
    mine = range(rank, len(source), ranks)
    reasons = decoded(mine, source.open, progress, threads)
    if ranks == 1:
        remember(source, reasons)
    return reasons


def remember(source: Source, reasons: Mapping[int, str]) -> None:
    """Keep what is known of all images of a source."""
    path = _path(source)
    indices = np.array(sorted(reasons), np.int64)
    keep(path, {"indices": indices, "reasons": np.array([reasons[i] for i in indices], "U")})


def decoded(
    indices: range, make: Callable[[int], object], progress: bool = False, threads: int = 1
) -> dict[int, str]:
    """Call make(i) for each index; return {i: text of the ValueError} of those that have failed."""

    def reason(i: int) -> str:
        try:
            make(i)
        except ValueError as error:
            return str(error)
        return ""

    def reasons() -> Iterator[str]:
        if threads <= 1:
            yield from map(reason, indices)
            return
        with ThreadPoolExecutor(threads) as pool:
            for start in range(0, len(indices), 256):  # so that few wait, and Ctrl-C is heard
                yield from pool.map(reason, indices[start : start + 256])

    hidden = not progress or len(indices) < BAR_FROM
    bar = Bar(reasons(), "decoding images", total=len(indices), disable=hidden)
    return {i: text for i, text in zip(indices, bar) if text}


def told(reasons: Mapping[int, str], total: int) -> str:
    """The images that cannot be read, in one sentence."""
    named = list(reasons.values())[:NAMED]
    more = f"; and {len(reasons) - NAMED} more" if len(reasons) > NAMED else ""
    return f"{len(reasons)} of {total} images cannot be read: {'; '.join(named)}{more}"


def _path(source: Source) -> str:
    """Where it is kept; "" where nothing is."""
    folder = default_cache_dir()
    return folder and os.path.join(folder, f"readable-{_state(source)}.npz")


def _place(source: Source) -> str:
    return source.data_dir if isinstance(source, Folder) else source.path


def _state(source: Source) -> str:
    """A hash of where the files are, of their names, sizes and times, and of how they are read."""
    total, place = hashlib.sha256(source.transparent.encode()), _place(source)
    inside = source.names if isinstance(source, Folder) else ()
    for path in [place, *(f"{place}/{name}" for name in inside)]:
        try:
            stat = os.stat(path)
            text = f"{os.path.abspath(path)} {stat.st_size} {stat.st_mtime_ns}\n"
        except OSError as error:
            text = f"{path} {error.errno}\n"
        total.update(text.encode(errors="surrogatepass"))
    return total.hexdigest()[:32]
