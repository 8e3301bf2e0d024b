"""How far the loss can rise within a ball around the weights, found by climbing.

    max L(w + d) - L(w)  over  ||J^-1 d|| <= rho,    d = J u, J of the `units`

is SAM's sharpness in absolute units (Foret et al. 2021, equation 1), the adaptive one in those of
weights or filters (Kwon et al. 2021, equation 3; Andriushchenko et al. 2023, section 2, worst case
of p = 2). The climb: u <- rho J'g / ||J'g||, g the gradient at w + J u, over and over. Its first
step is (A)SAM's; on a convex loss no step goes down (Journee et al. 2010, algorithm 1).
"""

import functools
import math

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..report.figures import colours
from ..report.text import table
from ..store import finite
from ..weights import perturb
from . import frame, paired, units
from .frame import number
from .subject import packed, unpacked

RADII = {"absolute": 0.05, "filter": 0.5, "weight": 0.5, "canonical": 0.05}


class SHARPNESS(frame.Measure):
    """Measures the largest rise met in `steps` of the climb, within `rho` in the units of
    `noise_scale`; rho 0: 0.05 in absolute or canonical units, 0.5 in those of filters and weights.
    """

    together = fp32 = True

    def __init__(self, *, noise_scale: str, rho: float = 0.0, steps: int = 5):
        if not (0 <= rho < math.inf and steps > 0):
            raise ValueError(
                f"SHARPNESS: rho is {rho}, steps {steps}; expected a radius of 0 (the usual one) or"
                " more, and one step or more"
            )
        self.scale, self.steps, self.rho = noise_scale, steps, rho or RADII[noise_scale]

    def tasks(self, subject) -> dict[str, frame.Task]:
        climb = functools.partial(self._climb, subject, *units.maps(subject, self.scale))
        return {f"sharpness {self.scale} {self.rho} {self.steps}": climb}

    def _climb(self, subject, to_weights: units.Map, to_units: units.Map) -> dict:
        """Return "rises" of the headline, step by step, and of the best step "each", what every
        example adds, and "distance", how far the weights are."""
        weights, rises, best = subject.weights, [], None
        move = [torch.zeros_like(w) for w in weights]
        sizes = [w.numel() for w in weights]
        for _ in range(self.steps):
            with perturb.at(weights, perturb.along(move, 1.0), measure=False):
                gradient = slope(subject)
            move = [g.view(w.shape).to(w) for g, w in zip(gradient.split(sizes), weights)]
            to_units(move)
            norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(move))))
            torch._foreach_mul_(move, self.rho / norm if norm else 0.0)
            to_weights(move)
            found = subject.at(perturb.along(move, 1.0), each=True)
            rise = found["losses"][0][0] - float(subject.at_w[0, 0])
            best = found if rise > max(rises, default=-math.inf) else best
            rises.append(rise)
        finite.check(rises, f"sharpness of {subject.name}")
        each = packed(unpacked(best["rises"])[0])
        return {"rises": rises, "each": each, "distance": best["distance"]}

    def result(self, subject, found: list) -> dict:
        """Return "of" (a term), "noise_scale", "rho", "sharpness", "error_images", the "distance"
        of the weights there, and "rises" by step."""
        (best,) = found
        error = subject.errors_of(unpacked(best["each"])[None], [subject.terms[0]])[0, 0]
        return {
            "of": subject.terms[0],
            "noise_scale": self.scale,
            "rho": self.rho,
            "sharpness": max(best["rises"]),
            "error_images": float(error),
            "distance": best["distance"],
            "rises": best["rises"],
        }

    def rows(self, record: dict) -> list[dict]:
        """Return a row for each network: `gain`, by how much the second half of the steps found
        more, says how far the climb was from its end."""
        names = ("of", "noise_scale", "rho", "sharpness", "error_images", "distance")
        return [
            {"model": m["name"], **{name: m[name] for name in names}, "gain": _gain(m["rises"])}
            for m in record["models"]
        ]

    def text(self, record: dict) -> str:
        note = (
            "+-: standard error over images and timesteps; gain: what the second half of the climb "
            "added, as a share"
        )
        heads = ["sharpness", "units", "rho", "rise", "+-", "||d||", "gain"]
        names = ("rho", "sharpness", "error_images", "distance", "gain")
        lines = [
            [row["model"], row["noise_scale"], *(number(row[name]) for name in names)]
            for row in record["rows"]
        ]
        return f"{note}\n\n{table([heads, *lines])}"

    def figures(self, record: dict) -> dict[str, Figure]:
        """Draw the rise met at each step of the climb."""
        figure, (axis,) = frame.panels(1)
        look = colours(model["name"] for model in record["models"])
        for model in record["models"]:
            steps = range(1, len(model["rises"]) + 1)
            told = f"{model['name']}: {model['sharpness']:.4g} +- {model['error_images']:.2g}"
            axis.plot(steps, model["rises"], marker="o", label=told, color=look[model["name"]])
        axis.set(
            xlabel="step of the climb (1: that of SAM)",
            ylabel=f"rise of {model['of']} at rho {self.rho:g}, {self.scale} units",
        )
        axis.xaxis.get_major_locator().set_params(integer=True)
        frame.legend(figure, axis, "+-: standard error over images")
        return {"": figure}

    def listed(self, record: dict) -> list[dict]:
        """Return kind, size (rho), term, value and its error."""
        return [
            {
                "kind": "SHARPNESS",
                "size": row["rho"],
                "term": row["of"],
                "value": row["sharpness"],
                "error": row["error_images"],
            }
            for row in record["rows"]
        ]

    def differences(self, one: frame.Told, other: frame.Told) -> list[dict]:
        """Return the difference of the two rises, if they are in the same units."""
        (ours, own, (best,)), (theirs, base, (others,)) = one, other
        term = ours.terms[0]
        if (own.scale, own.rho, term) != (base.scale, base.rho, theirs.terms[0]):
            return []
        each = unpacked(best["each"]), unpacked(others["each"])
        examples = paired.over_examples(ours, theirs, *each, term)
        less = max(best["rises"]) - max(others["rises"])
        return [{"size": own.rho, "term": term, **paired.interval(less, 0.0, 2, examples)}]

    @staticmethod
    def shown(model: dict) -> dict[str, float | None]:
        """Give the rise."""
        return {"sharpness": model["sharpness"]}


def slope(subject) -> Tensor:
    """Return dL/dw [n] of the mean of the headline, at the weights as they stand, by all ranks."""

    def of(_, part: tuple) -> Tensor:
        mean = subject.mean_of(part)
        gradient = torch.autograd.grad(mean, subject.weights, materialize_grads=True)
        return torch.cat([g.reshape(-1) for g in gradient])

    like = {"dtype": subject.weights[0].dtype, "device": subject.device}
    nothing = torch.zeros(subject.num_weights, **like)
    return subject.summed(of, subject.parts(exact=False), nothing)


def _gain(rises: list[float]) -> float:
    """What the best of all steps has more than the best of the first half, as a share of it."""
    return max(rises) / max(rises[: (len(rises) + 1) // 2]) - 1
