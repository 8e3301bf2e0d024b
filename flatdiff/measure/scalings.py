"""The scaling of the predicted noise that suits best, by the norms of the noise and by a distance.

Ning et al. 2024, "Elucidating the exposure bias in diffusion models", section 4: a sampler whose
noise is divided by lambda may be led where the norms are those of training. Of a scan of lambda
the gap of the norms and the distance are nearly parabolas: the zero of one is one answer, the least
of the other is the other. Both are refitted without each group of images, so that they and their
difference have the jackknife's errors.
"""

from collections.abc import Sequence

import numpy as np

from ..judge import jackknife, power


def agreement(scalings: Sequence[float], gaps: np.ndarray, distances: np.ndarray) -> dict:
    """What each criterion finds, each {value, error, low, high}; "difference", the distance's less
    the norm's, with `seen` too; and "verdict".

    gaps, distances [1 + groups, S]: of all images, then without each group, at the scalings [S].
    None where there is no such scaling, as where the distance has no least, and without an error,
    as where the distances have no groups, of which too few images have none.
    """
    by_norm, by_distance = (
        np.array([fit(scalings, row) for row in rows])
        for fit, rows in ((zero, gaps), (least, distances))
    )
    found = {"norm": _told(by_norm), "distance": _told(by_distance)}
    alike = len(by_norm) == len(by_distance)
    apart = by_distance - by_norm if alike else [by_distance[0] - by_norm[0]]
    found["difference"] = _told(apart)
    low, high = (found["difference"][end] for end in ("low", "high"))
    verdict = "undecided" if low is None else "they differ"
    if low is not None and low <= 0 <= high:
        verdict = "no difference seen"
    return found | {"verdict": verdict}


def zero(x: Sequence[float], y: np.ndarray) -> float:
    """Where the parabola of least squares through (x, y) is 0, the nearest to the middle of x; if
    it is so nowhere, where it is nearest to 0; nan where that is not near the scan."""
    roots = np.roots(np.polyfit(np.subtract(x, np.mean(x)), y, 2))
    return _near(x, min(roots, key=abs).real if len(roots) else np.inf)


def least(x: Sequence[float], y: np.ndarray) -> float:
    """Where the parabola of least squares is least; nan where it has no least near the scan."""
    bend, slope, _ = np.polyfit(np.subtract(x, np.mean(x)), y, 2)
    return _near(x, -slope / (2 * bend) if bend > 0 else np.inf)


def _near(x: Sequence[float], place: float) -> float:
    """The middle of x and `place`; nan where that is further from it than three half widths."""
    return float(np.mean(x) + place) if abs(place) <= 1.5 * np.ptp(x) else float("nan")


def _told(values: np.ndarray) -> dict[str, float | None]:
    whole, *left_out = values
    spread = jackknife.error(left_out) if np.isfinite(left_out).all() else float("nan")
    found = power.test(float(whole), spread, len(left_out) - 1)
    return {k: v if np.isfinite(v) else None for k, v in found._asdict().items()}
