"""How much the loss rises by rounding: bits of the weights x what rounds them x rounded inputs.

All are on the same examples, so that a difference of two has the error of its own sum.
"""

import contextlib
import functools
from collections.abc import Iterator

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..exchange.families import inside
from ..flags import parse
from ..quantization import static
from ..quantization.grid import BITS, layers_of, quantize_inputs
from ..report.text import table
from ..weights import perturb
from . import along, frame, paired
from .explain_report import short
from .frame import number
from .quantizers import layers, listed, rounded
from .subject import TERM, packed, unpacked

DEFAULT = "minmax,minmax granularity=channel,mse,minmax group=32,gptq"


class ROUNDING(frame.Measure):
    """Measures the rise for each of `bits` by each of `quantizers`, with inputs of layers as each
    of `activations` says: "none", bits, each image on its own range, or "8 bins=4", on ranges fixed
    in so many bins of timesteps."""

    fp32 = True

    def __init__(
        self, *, bits: str = "", quantizers: str = "", activations: str = "none,8,8 bins=4"
    ):
        self.kinds = listed(quantizers or DEFAULT, bits or "8,6,4,3")
        self.inputs = {text: _inputs(text) for text in parse.parts(activations)}
        if not self.inputs:
            raise ValueError("--activations is empty; expected none, 8 or 8 bins=4, or several")
        self.first = None  # network, and its rises by kind

    def tasks(self, subject) -> dict[str, frame.Task]:
        named, net = layers(subject), inside(subject.model)
        calibration = getattr(subject, "calibration", None)
        ranges = {}
        for bins in {bins for _, bins in self.inputs.values() if bins}:
            if calibration is None:
                raise ValueError(
                    "bins of timesteps calibrate on images of their own: they are for checkpoints "
                    "with a --data_dir; leave --activations ... bins= out"
                )
            ranges[bins] = calibration.ranges(layers_of(net), bins)
        found = {}
        for (text, bits), quantizer in self.kinds.items():
            codes = rounded(subject, quantizer)
            for told, (input_bits, bins) in self.inputs.items():
                how = named, codes, input_bits, ranges.get(bins)
                found[f"{text} {bits} inputs {told}"] = functools.partial(_rise, subject, *how)
        return found

    def result(self, subject, found: list) -> dict:
        """Return "rounding": of each quantizer, bits and inputs the length of w_q - w and the rise,
        with its error; that less the first quantizer's; and less the first network's, None where
        examples are others."""
        keys = [(*kind, told) for kind in self.kinds for told in self.inputs]
        each = {key: unpacked(row["rise"]) for key, row in zip(keys, found)}
        self.first = self.first or (subject, each)
        first, others = self.first
        alike = first is not subject and paired.alike(first, subject, subject.terms[0])
        rows = []
        for (text, bits, told), row in zip(keys, found):
            own = each[text, bits, told]
            start = {"of": subject.terms[0], "quantizer": text, "bits": bits, "activations": told}
            start |= {"length": row["length"], "at_w": float(subject.at_w[0, 0])}
            start |= _estimate(subject, "rise", own)
            base = each[next(iter(self.kinds))[0], bits, told]
            start |= _estimate(subject, "minus_quantizer", None if base is own else own - base)
            other = own - others[text, bits, told] if alike else None
            rows.append(start | _estimate(subject, "minus_first", other))
        return {"rounding": rows}

    def rows(self, record: dict) -> list[dict]:
        return [{"model": m["name"], **row} for m in record["models"] for row in m["rounding"]]

    def text(self, record: dict) -> str:
        """Write a table: a line for each network, quantizer and bits, a column for each inputs."""
        rows = record["rows"]
        head = [f"rise of {rows[0]['of']}, of {number(rows[0]['at_w'])}", "quantizer", "bits"]
        head += ["||d||"] + [word for told in self.inputs for word in (f"inputs {told}", "+-")]
        head += [f"less {rows[0]['quantizer']}'s", "+-"]
        lines = {}
        for row in rows:
            start = [row["model"], row["quantizer"], str(row["bits"]), number(row["length"])]
            line = lines.setdefault(tuple(start), (start, []))
            line[0].extend([number(row["rise"]), number(row["rise_error"])])
            line[1].append(row)
        told = [
            [*line, *(number(each[0][k]) for k in ("minus_quantizer", "minus_quantizer_error"))]
            for line, each in lines.values()
        ]
        note = (
            "+-: standard error over examples and noise levels, the same for all. The last two "
            f"columns are of inputs {next(iter(self.inputs))}"
        )
        return f"{note}\n\n{table([head, *told])}"

    def figures(self, record: dict) -> dict[str, Figure]:
        """Draw the rise against bits: a panel for each inputs, a colour a quantizer, a line a
        network."""
        rows = record["rows"]
        names = short([model["name"] for model in record["models"]])
        figure, axes = frame.panels(len(self.inputs))
        positive = min(row["rise"] for row in rows) > 0
        for axis, told in zip(axes, self.inputs):
            lines = {}
            for row in (row for row in rows if row["activations"] == told):
                lines.setdefault((row["model"], row["quantizer"]), []).append(row)
            colours = list(dict.fromkeys(text for _, text in lines))
            for (model, text), mine in lines.items():
                x, y, error = ([row[k] for row in mine] for k in ("bits", "rise", "rise_error"))
                i = list(names).index(model)
                look = {"color": f"C{colours.index(text)}", "marker": "os^v"[i % 4]}
                look |= {"linestyle": ("-", "--", ":", "-.")[i % 4], "markersize": 4, "capsize": 3}
                axis.errorbar(x, y, error, label=f"{names[model]}, {text}", **look)
            axis.set_yscale("log" if positive else "symlog")
            axis.set(xlabel="bits of a weight", ylabel=f"rise of {TERM.get(rows[0]['of'], 'loss')}")
            axis.set_title(f"inputs: {told}", fontsize="medium")
            axis.set_xticks(sorted({row["bits"] for row in rows}))
        frame.legend(figure, axes[0], "bars: one standard error to each side")
        return {"": figure}

    def listed(self, record: dict) -> list[dict]:
        """Return kind, size (bits), term, value and error of a rise, and the other columns."""
        return [
            {"kind": "ROUNDING", "size": row["bits"], "term": row["of"], "value": row["rise"]}
            | {"error": row["rise_error"]}
            | {
                k: v
                for k, v in row.items()
                if k not in ("model", "of", "bits", "rise", "rise_error")
            }
            for row in record["rows"]
        ]


def _inputs(text: str) -> tuple[int, int]:
    """Read "none", "8" or "8 bins=4" as (bits, bins); 0 is none."""
    bits, _, bins = text.partition(" bins=")
    with contextlib.suppress(ValueError):
        found = (0 if bits == "none" else int(bits)), int(bins or 0)
        if found == (0, 0) or (found[0] in BITS and found[1] >= 0):
            return found
    raise ValueError(
        f"--activations has {text!r}; expected none, or bits from {BITS[0]} to {BITS[-1]}, as 8, "
        "and for ranges that are fixed in bins of timesteps 8 bins=4"
    )


@torch.no_grad()
def _rise(subject, named: dict[str, Tensor], codes: dict, bits: int, ranges) -> dict:
    """Measure the rise with these codes for weights, and inputs rounded."""
    ends = [codes[name].dequantize().to(w) for name, w in named.items()]
    weights = list(named.values())
    length = along.length([end - w for end, w in zip(ends, weights)])
    with _rounded_inputs(inside(subject.model), bits, ranges):
        rise = along.moved(subject, weights, perturb.replace(ends))
    return {"length": length, "rise": packed(rise)}


@contextlib.contextmanager
def _rounded_inputs(net, bits: int, ranges: static.Ranges | None) -> Iterator[None]:
    with contextlib.ExitStack() as held:
        if ranges:
            held.enter_context(static.held(net, layers_of(net), ranges, bits))
        elif bits:
            for layer in layers_of(net).values():
                held.callback(quantize_inputs(layer, bits).remove)
        yield


def _estimate(subject, name: str, each: Tensor | None) -> dict[str, float | None]:
    """Return the mean of values [N] and its error, by name; None for None."""
    if each is None:
        return {name: None, f"{name}_error": None}
    term = subject.terms[:1]
    both = subject.means(each[None], term)[0, 0], subject.errors_of(each[None], term)[0, 0]
    return dict(zip((name, f"{name}_error"), map(float, both)))
