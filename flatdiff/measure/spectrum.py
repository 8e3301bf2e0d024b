"""The largest eigenvalues of the Hessian of the headline's mean at the weights, and its trace.

The trace is the mean of z.Hz over random signs z; eigenvalues are found by Lanczos' iteration.
"""

import functools
import math

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..bars import Bar
from ..report.figures import colours
from ..report.text import table
from ..store import finite
from ..weights import hessian
from ..weights.basis import Place
from ..world import dist_util
from . import frame, paired
from .curve import mean_and_error
from .frame import number
from .subject import packed, unpacked

PRODUCTS = "differences", "exact"


class HESSIAN(frame.Measure):
    """Measures the trace, of `num_draws` probes, and the `num_eigenvalues` largest eigenvalues.

    `product`: by "differences" of gradients and losses, or "exact", differentiated twice, which
    takes two to four times as long.
    """

    together = fp32 = True

    def __init__(self, *, num_draws: int, num_eigenvalues: int, product: str = PRODUCTS[0]):
        if product not in PRODUCTS:
            raise ValueError(f"HESSIAN, product: got {product!r}, expected {' or '.join(PRODUCTS)}")
        self.num_draws, self.count, self.product = num_draws, num_eigenvalues, product

    def tasks(self, subject) -> dict[str, frame.Task]:
        exact = self.product == "exact"
        by = "" if exact else f" {self.product}"  # keys without a word are those of the exact ones

        def trace(draw: int) -> dict:
            signs = hessian.signs(subject.num_weights, subject.seed, draw)
            each = subject.curvatures(signs, exact)
            return {"value": float(subject.means(each)[0]), "each": packed(each)}

        # first what needs a gradient, and says so of a network that has none
        top = {f"top {self.count}{by}": functools.partial(_lanczos, subject, self.count, exact)}
        return top | {f"trace {k}{by}": functools.partial(trace, k) for k in range(self.num_draws)}

    def result(self, subject, found: list) -> dict:
        """Return "of" (a term), "product", "trace" (z.Hz by draw), "eigenvalues" (down), and
        "residuals"; "trace_error_images" and "eigenvalue_errors_images"."""
        top, *trace = found
        values = [part["value"] for part in trace]
        finite.check(values + top["eigenvalues"], f"Hessian of {subject.name}")
        mean = sum(unpacked(part["each"]) for part in trace) / len(trace)
        each = torch.stack([mean, *map(unpacked, top["each"])])
        of_trace, *errors = subject.errors_of(each, [subject.terms[0]] * len(each))[:, 0].tolist()
        return {
            "of": subject.terms[0],
            "product": self.product,
            "trace": values,
            "trace_error_images": of_trace,
            "eigenvalues": top["eigenvalues"],
            "residuals": top["residuals"],
            "eigenvalue_errors_images": errors,
        }

    def rows(self, record: dict) -> list[dict]:
        """Return the trace, with its standard error over draws, the eigenvalues, with residuals, as
        `error`; and for all of them `error_images` and `error_larger`."""
        columns = ("model", "of", "quantity", "value", "error", "error_images", "error_larger")
        rows = []
        for model in record["models"]:
            mean, error = mean_and_error(torch.tensor(model["trace"], dtype=torch.float64))
            names = ["trace", *(f"eigenvalue {i + 1}" for i in range(len(model["eigenvalues"])))]
            values = [float(mean), *model["eigenvalues"]]
            errors = [float(error), *model["residuals"]]
            images = [model["trace_error_images"], *model["eigenvalue_errors_images"]]
            for name, value, *both in zip(names, values, errors, images):
                row = (model["name"], model["of"], name, value, *both, float(np.maximum(*both)))
                rows.append(dict(zip(columns, row)))
        return rows

    def text(self, record: dict) -> str:
        rows = record["rows"]
        note = (
            "+-: standard error over images and timesteps, or, where that is larger: of the trace,"
            " over draws; of an eigenvalue, ||H v - lambda v||"
        )
        header = [f"Hessian of {rows[0]['of']}", "", "value", "+-"]
        lines = [
            [row["model"], row["quantity"], number(row["value"]), number(row["error_larger"])]
            for row in rows
        ]
        return f"{note}\n\n{table([header, *lines])}"

    def figures(self, record: dict) -> dict[str, Figure]:
        """Draw eigenvalues, with their errors as bars, and traces in the legend."""
        rows = record["rows"]
        figure, (axis,) = frame.panels(1)
        for name, colour in colours(row["model"] for row in rows).items():
            trace, *top = [row for row in rows if row["model"] == name]
            values, errors = ([row[k] for row in top] for k in ("value", "error_larger"))
            label = f"{name}: trace {trace['value']:.4g} +- {trace['error_larger']:.2g}"
            look = {"marker": "o", "capsize": 3, "label": label, "color": colour}
            axis.errorbar(range(1, len(top) + 1), values, yerr=errors, **look)
        axis.set_xlabel("number of the eigenvalue")
        axis.set_ylabel(f"eigenvalue of the Hessian of {trace['of']}")
        axis.xaxis.get_major_locator().set_params(integer=True)
        note = "bars: one standard error over images, or ||H v - lambda v|| if larger"
        frame.legend(figure, axis, note)
        return {"": figure}

    def listed(self, record: dict) -> list[dict]:
        """Return kind, size (an eigenvalue's number, or "trace"), term, value and error (both
        together), and what makes it up."""
        return [
            {
                "kind": "HESSIAN",
                "size": "trace" if row["quantity"] == "trace" else int(row["quantity"].split()[1]),
                "term": row["of"],
                "value": row["value"],
                "error": math.hypot(row["error"], row["error_images"]),
                "error_draws": row["error"],
                "error_examples": row["error_images"],
            }
            for row in record["rows"]
        ]

    def differences(self, one: frame.Told, other: frame.Told) -> list[dict]:
        """Return the difference of the traces, and of each eigenvalue of both."""
        (ours, _, (top, *trace)), (theirs, _, (others, *base_trace)) = one, other
        term = ours.terms[0]
        if term != theirs.terms[0]:
            return []
        probes = [torch.tensor([p["value"] for p in t]).double() for t in (trace, base_trace)]
        same = (ours.seed, ours.num_weights) == (theirs.seed, theirs.num_weights)
        each = [sum(unpacked(p["each"]) for p in t) / len(t) for t in (trace, base_trace)]
        examples = paired.over_examples(ours, theirs, *each, term)
        found = paired.interval(*paired.over_draws(*probes, same), examples)
        rows = [{"size": "trace", "term": term, **found}]
        for k, (a, b) in enumerate(zip(top["each"], others["each"])):
            difference = top["eigenvalues"][k] - others["eigenvalues"][k]
            residual = math.hypot(top["residuals"][k], others["residuals"][k])
            examples = paired.over_examples(ours, theirs, unpacked(a), unpacked(b), term)
            told = paired.interval(difference, 0.0, 2, math.hypot(examples, residual))
            rows.append({"size": k + 1, "term": term, **told})
        return rows

    @staticmethod
    def shown(model: dict) -> dict[str, float | None]:
        """Give the largest eigenvalue."""
        return {"eigenvalue": next(iter(model["eigenvalues"]), None)}


def _lanczos(subject, count: int, exact: bool) -> dict:
    """Find eigenvalues, residuals and what each image adds. The second derivative of the loss along
    a vector, found without gradients, is another answer: a residual has the difference, too."""
    values, residuals, vectors = top(subject, count, exact)
    each = torch.stack([subject.curvatures(v, exact) for v in vectors])
    means = subject.means(each, [subject.terms[0]] * len(each))[:, 0]
    residuals = torch.hypot(residuals, means - values).tolist()
    return {"eigenvalues": values.tolist(), "residuals": residuals, "each": [*map(packed, each)]}


def top(subject, count: int, exact: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Return `hessian.top_eigenvalues` of the headline: by all ranks together, with a bar."""
    product, size = subject.hessian_product(exact), subject.num_weights
    steps = min(size, 20 + 4 * count)
    with Bar(total=steps + count, desc="Lanczos", disable=subject.hidden) as bar:

        def counted(vector: Tensor) -> Tensor:
            bar.update()
            return product(vector)

        place = (dist_util.rank(), dist_util.world_size(), dist_util.all_reduce_sum)
        place = Place(*place, subject.device, torch.float32)
        return hessian.top_eigenvalues(counted, size, count, subject.seed, steps, place=place)
