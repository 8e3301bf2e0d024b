"""The spectral density of the Hessian of the headline's mean, or of its Gauss-Newton matrix.

By stochastic Lanczos quadrature, with an interval over its probes; beside it the trace by
Hutchinson's estimate of the same probes, and by Hutch++. The draws of the examples are fixed.
"""

import functools
import math

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor

from ..exchange.families import inside, unwrapped
from ..report.figures import colours
from ..report.text import table
from ..store import finite
from ..weights import density, differences, gauss_newton, hessian
from ..weights.basis import Place
from ..world import dist_util
from . import frame, paired
from .frame import number

MATRICES = {"hessian": "Hessian", "gauss_newton": "Gauss-Newton"}
PRODUCTS = "differences", "exact"
GRID = 400  # points of the density
NARROW = 0.01  # deviation of a node, as a share of the whole range


class DENSITY(frame.Measure):
    """Measures the spectrum by `probes` of `steps` products, and the trace by 3 `sketch` more.

    `matrix`: hessian, gauss_newton (of a squared error alone) or both. `products`: by "differences"
    of gradients, of Gauss-Newton of outputs, which on a network of float32 are off by 2e-3
    of the largest eigenvalue or less; or "exact", differentiated twice. By the defaults, 33
    products of two gradients cost about twice LPF's 100 passes.
    """

    together = fp32 = True

    def __init__(
        self,
        *,
        matrix: str = "hessian",
        products: str = "differences",
        probes: int = 3,
        steps: int = 8,
        sketch: int = 3,
    ):
        for name, got, known in (
            ("matrix", matrix, [*MATRICES, "both"]),
            ("products", products, PRODUCTS),
        ):
            if got not in known:
                raise ValueError(f"DENSITY, {name}: got {got!r}, expected {' or '.join(known)}")
        if min(probes, sketch) < 2 or steps < 1:
            raise ValueError(
                f"DENSITY: probes is {probes}, sketch {sketch}, steps {steps}; expected 2 or more "
                "probes and columns of the sketch, of which errors are, and 1 step or more"
            )
        self.matrices = [*MATRICES] if matrix == "both" else [matrix]
        self.exact, self.probes, self.steps = products == "exact", probes, steps
        self.sketch = sketch

    def tasks(self, subject) -> dict[str, frame.Task]:
        by, tasks = PRODUCTS[self.exact], {}
        for name in self.matrices:
            applied = functools.cache(functools.partial(product, subject, name, self.exact))
            about = f"density {name} {by}"
            tasks[f"{about} sketch {self.sketch}"] = functools.partial(
                _sketched, subject, applied, self.sketch
            )
            for k in range(self.probes):
                probe = functools.partial(_probe, subject, applied, self.steps, k)
                tasks[f"{about} {self.steps} {k}"] = probe
        return tasks

    def result(self, subject, found: list) -> dict:
        """Return "of" (a term), and "spectra", of each matrix "matrix", "nodes" and "weights" by
        probe, "traces" by probe, "sketched" {"inner", "rests"}."""
        spectra, each = [], self.probes + 1
        for i, name in enumerate(self.matrices):
            sketched, *probes = found[i * each : (i + 1) * each]
            finite.check([sketched, probes], f"{name} of {subject.name}")
            spectra.append(
                {
                    "matrix": name,
                    "nodes": [p["nodes"] for p in probes],
                    "weights": [p["weights"] for p in probes],
                    "traces": [p["trace"] for p in probes],
                    "sketched": sketched,
                }
            )
        told = {"of": subject.terms[0], "products": PRODUCTS[self.exact]}
        return told | {"steps": self.steps, "spectra": spectra}

    def rows(self, record: dict) -> list[dict]:
        """Return, of each network and matrix, both traces, extreme nodes and the share of negative
        ones: the mean over probes, its standard error over them, and Student's interval of 95 %;
        of extremes the outermost of all probes, without these."""
        return [
            {"model": model["name"], "of": model["of"], "matrix": spectrum["matrix"], **row}
            for model in record["models"]
            for spectrum in model["spectra"]
            for row in _quantities(spectrum)
        ]

    def tables(self, record: dict) -> dict[str, list[dict]]:
        """Return the quantities, and "_curve": the density, its low and high, on a grid."""
        rows = [
            {"model": model["name"], "matrix": spectrum["matrix"], **point}
            for model in record["models"]
            for spectrum in model["spectra"]
            for point in (dict(zip(("x", "density", "low", "high"), p)) for p in _points(spectrum))
        ]
        return {"": record["rows"], "_curve": rows}

    def text(self, record: dict) -> str:
        note = (
            "+-: standard error over probes, the images fixed; low, high: Student's interval of "
            "95 % over them. largest and smallest are the outermost nodes, which eigenvalues are "
            "beyond"
        )
        names = ("value", "error", "low", "high")
        lines = [
            [r["model"], r["matrix"], r["quantity"], *(number(r[name]) for name in names)]
            for r in record["rows"]
        ]
        head = [f"spectrum of {record['rows'][0]['of']}", "", "", "value", "+-", "low", "high"]
        return f"{note}\n\n{table([head, *lines])}"

    def figures(self, record: dict) -> dict[str, Figure]:
        """Draw each density with its band, log y, and below it a mark at every node."""
        figure, (axis,) = frame.panels(1)
        figure.set_size_inches(7.5, 4.8)
        ends = [math.inf, 0.0]
        pairs = [(m["name"], s["matrix"]) for m in record["models"] for s in m["spectra"]]
        look = colours(pairs)
        for model in record["models"]:
            for spectrum in model["spectra"]:
                colour = look[model["name"], spectrum["matrix"]]
                x, mean, low, high = np.array(_points(spectrum)).T
                trace = _quantities(spectrum)[1]
                label = f"{model['name']}, {MATRICES[spectrum['matrix']]}: trace "
                label += f"{trace['value']:.4g} ± {trace['error']:.3g}"
                axis.plot(x, mean, label=label, lw=1.2, color=colour)
                axis.fill_between(x, np.maximum(low, 1e-300), high, alpha=0.2, color=colour)
                marks = np.concatenate([np.array(n) for n in spectrum["nodes"]])
                place = {"transform": axis.get_xaxis_transform(), "clip_on": False}
                drawn = {"marker": "|", "ls": "none", "color": colour, "alpha": 0.6}
                axis.plot(marks, np.full(len(marks), 0.02), **drawn, **place)
                width = _width(spectrum)
                one = min(min(w) for w in spectrum["weights"]) / (width * math.sqrt(2 * math.pi))
                ends = [
                    min(ends[0], max(one, mean.max() * 1e-10) / 10),
                    max(ends[1], 3 * high.max()),
                ]
        axis.set(yscale="log", xlabel="eigenvalue", ylabel="spectral density")
        axis.set_ylim(*ends)
        note = "bands: 95 % over probes; ticks below: nodes of the quadrature; trace by Hutch++"
        frame.legend(figure, axis, note)
        return {"": figure}

    def listed(self, record: dict) -> list[dict]:
        """Return kind, size (the quantity), matrix, term, value and error over probes."""
        return [
            {
                "kind": "DENSITY",
                "size": row["quantity"],
                "matrix": row["matrix"],
                "term": row["of"],
                **{name: row[name] for name in ("value", "error", "low", "high")},
            }
            for row in record["rows"]
        ]


def product(subject, matrix: str, exact: bool) -> hessian.Product:
    """Return v -> H v or G v of the mean of the headline, by all ranks together."""
    if matrix == "hessian":
        return subject.hessian_product(exact)

    def of(step: Tensor, part: tuple) -> Tensor:
        given = functools.partial(_evaluated, subject, part), subject.weights, step
        return gauss_newton.product(*given) if exact else gauss_newton.change(*given, subject.spare)

    summed = functools.partial(subject.summed, of, subject.parts(exact))
    if exact:
        return summed
    return differences.product(summed, float(subject.at_w[0, 0]), subject.weights)


def _evaluated(subject, part: tuple) -> tuple[Tensor, Tensor]:
    """Return what the network gives in the loss of a part of the draws, and that loss; ValueError
    where it is not called once."""
    outputs = []
    keep = inside(subject.model).register_forward_hook(
        lambda module, args, output: outputs.append(unwrapped(output))
    )
    try:
        loss = subject.mean_of(part)
    finally:
        keep.remove()
    if len(outputs) != 1:
        raise ValueError(
            f"the loss of {subject.name} calls its network {len(outputs)} times; expected once, of "
            "which output the Gauss-Newton matrix is: measure matrix=hessian"
        )
    return outputs[0], loss


def _sketched(subject, applied, count: int) -> dict:
    size = subject.num_weights
    inner, rests = density.hutch(_placed(subject, applied()), size, count, subject.seed)
    return {"inner": inner, "rests": rests.tolist()}


def _probe(subject, applied, steps: int, draw: int) -> dict:
    place = (dist_util.rank(), dist_util.world_size(), dist_util.all_reduce_sum)
    place = Place(*place, subject.device, subject.weights[0].dtype)
    given = applied(), subject.num_weights, steps, subject.seed, draw, place
    nodes, weights, trace = density.quadrature(*given)
    return {"nodes": nodes.tolist(), "weights": weights.tolist(), "trace": trace}


def _placed(subject, applied) -> hessian.Product:
    return lambda v: applied(v.to(subject.weights[0])).cpu()


def _quantities(spectrum: dict) -> list[dict]:
    """Return quantity, value, error, low and high."""
    inner, rests = (spectrum["sketched"][k] for k in ("inner", "rests"))
    pairs = list(zip(spectrum["nodes"], spectrum["weights"]))
    below = [sum(w for x, w in zip(*p) if x < 0) for p in pairs]
    second = [sum(w * x * x for x, w in zip(*p)) ** 0.5 for p in pairs]
    rows = [
        ("trace, Hutchinson", *_interval(spectrum["traces"])),
        ("trace, Hutch++", *_interval([inner + rest for rest in rests])),
        ("share below 0", *_interval(below)),
        ("root of the mean square", *_interval(second)),
        ("largest", max(map(max, spectrum["nodes"])), *[math.nan] * 3),
        ("smallest", min(map(min, spectrum["nodes"])), *[math.nan] * 3),
    ]
    return [dict(zip(("quantity", "value", "error", "low", "high"), row)) for row in rows]


def _interval(values: list[float]) -> tuple[float, float, float, float]:
    x = torch.tensor(values, dtype=torch.float64)
    mean, error = float(x.mean()), paired.error(x)
    half = stats.t.ppf(0.975, len(x) - 1) * error
    return mean, error, mean - half, mean + half


def _width(spectrum: dict) -> float:
    ends = [f(map(f, spectrum["nodes"])) for f in (min, max)]
    return NARROW * (ends[1] - ends[0]) or NARROW * (abs(ends[0]) or 1.0)


def _points(spectrum: dict) -> list[list[float]]:
    """Return [x, density, low, high] on a grid that has all nodes and some more in it."""
    width, nodes = _width(spectrum), spectrum["nodes"]
    low, high = min(map(min, nodes)) - 5 * width, max(map(max, nodes)) + 5 * width
    grid = torch.linspace(low, high, GRID, dtype=torch.float64)
    each = torch.stack(
        [
            density.smoothed(torch.tensor(n).double(), torch.tensor(w).double(), grid, width)
            for n, w in zip(nodes, spectrum["weights"])
        ]
    )
    mean, error = paired.mean_and_error(each)
    half = stats.t.ppf(0.975, len(each) - 1) * error
    return torch.stack([grid, mean, (mean - half).clamp(min=0), mean + half], dim=1).tolist()
