"""Why rounding the weights hurts: the rise of the loss from w to w_q, in terms of d = w_q - w.

    L(w + d) - L(w) = g.d + d.Hd / 2 + rest           Taylor's at w: one point
                    = (s(0) + 4 s(1/2) + s(1)) / 6    Simpson's rule for the slopes s(a) on the way
                    = g.d + |d|^2 k / 2               which is how k, the curvature on the way, is
                                                      defined
Each is of the headline, on the same examples, noise and levels for all, with its error over these.
Against d stand random directions of its length, in all or in each layer, by the same quotient
(L(w + d) - 2 L(w) + L(w - d)) / |d|^2.
"""

import functools

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..flags import parse
from ..weights import perturb
from . import along, explain_report, explain_split, frame, paired
from .quantizers import layers, listed, rounded
from .subject import packed, unpacked

RANDOM = {"random": False, "random by layer": True}


class EXPLAIN(frame.Measure):
    """Measures each term of the rise at each of `bits` by each of `quantizers`, and `num_draws`
    random directions, in mirrored pairs; layers one at a time at `layer_bits`: "0" for none, ""
    for the fewest."""

    fp32 = True

    def __init__(
        self,
        *,
        num_draws: int,
        bits: str = "",
        quantizers: str = "",
        layer_bits: str = "",
    ):
        paired.pairs(torch.empty(num_draws))
        self.pairs, self.kinds = num_draws // 2, listed(quantizers or "minmax", bits or "8,6,4")
        self.layer_bits = _layer_bits(layer_bits, [b for _, b in self.kinds])
        self.first = None  # network, and its terms by kind

    def tasks(self, subject) -> dict[str, frame.Task]:
        """Give, of each kind of rounding, the rise, slopes and curvature along d, those of random
        directions, and those of each layer's own part of d."""
        subject._hessian_batch  # noqa: B018 on all ranks, which then share the tasks
        named, found = layers(subject), {}
        weights = list(named.values())
        for (text, bits), quantizer in self.kinds.items():
            codes = rounded(subject, quantizer)
            ends = [codes[name].dequantize().to(w) for name, w in named.items()]
            d = [(end - w).detach() for end, w in zip(ends, weights)]
            if not along.length(d):
                raise ValueError(
                    f"{subject.name} stands on the grid of {bits} bits already, so rounding moves "
                    "nothing: leave out --quant, or give a checkpoint that is not rounded"
                )
            of = functools.partial(_along, subject, weights, d, ends)
            what = ("terms", "halfway", "end", "rise")
            found |= {f"{text} {bits} {w}": functools.partial(of, w) for w in what}
            for kind, draw in ((k, i) for k in RANDOM for i in range(self.pairs)):
                key = f"{text} {bits} {kind} {perturb.NUMBERS} {draw}"
                found[key] = functools.partial(_random, subject, weights, d, kind, draw)
            if bits in self.layer_bits:
                tasks = zip(named, weights, d)
                found |= {
                    f"{text} {bits} layer {name}": functools.partial(_layer, subject, name, w, part)
                    for name, w, part in tasks
                }
        return found

    def result(self, subject, found: list) -> dict:
        """Return "explained", of each kind of rounding: "of" (a term), "quantizer", "bits",
        lengths, terms with errors, those of random directions, "layers"; and "split", why the first
        network's rise is larger, where both have the same examples."""
        explained = []
        series = self.series(found)
        for (text, bits), (whole, terms, draws, own) in series.items():
            item = {"of": subject.terms[0], "quantizer": text, "bits": bits}
            item |= {"length": whole["length"], "norm": whole["norm"]}
            item["terms"] = _estimates(subject, terms)
            item["random"] = {kind: _over_draws(subject, rows) for kind, rows in draws.items()}
            explained.append(item | _layers(subject, own, terms["rise"]))
        self.first = self.first or (subject, series)
        return {"explained": explained, "split": _split(*self.first, subject, series)}

    def series(self, found: list) -> dict[tuple[str, int], tuple]:
        """Sort the results of the tasks by kind of rounding: what was told of the whole d, its
        terms [N], the results of random directions by kind, and those of layers."""
        count = 4 + len(RANDOM) * self.pairs
        of_layers = (len(found) - count * len(self.kinds)) // max(1, len(self._with_layers()))
        found, sorted_ = iter(found), {}
        for kind in self.kinds:
            whole = {k: v for part in range(4) for k, v in next(found).items()}
            draws = {name: [next(found) for _ in range(self.pairs)] for name in RANDOM}
            own = [next(found) for _ in range(of_layers if kind in self._with_layers() else 0)]
            each = {k: unpacked(v) for k, v in whole.items() if isinstance(v, list)}
            sorted_[kind] = whole, explain_split.terms(each, whole["length"]), draws, own
        return sorted_

    def _with_layers(self) -> list[tuple[str, int]]:
        return [kind for kind in self.kinds if kind[1] in self.layer_bits]

    def rows(self, record: dict) -> list[dict]:
        """Return a row for each network and kind of rounding. `holds`: whether the rest is at most
        a tenth of the rise; `path_holds`: the same of Simpson's rule."""
        return explain_report.rows(record)

    def tables(self, record: dict) -> dict[str, list[dict]]:
        return explain_report.tables(record)

    def text(self, record: dict) -> str:
        return explain_report.text(record)

    def figures(self, record: dict) -> dict[str, Figure]:
        return explain_report.figures(record)

    def listed(self, record: dict) -> list[dict]:
        """Return kind, size (bits), term, quantizer, and the columns of `rows`."""
        return [
            {"kind": "EXPLAIN", "size": row["bits"], "term": row["of"]}
            | {k: v for k, v in row.items() if k not in ("model", "bits", "of")}
            for row in record["rows"]
        ]

    def differences(self, one: frame.Told, other: frame.Told) -> list[dict]:
        """Return the parts of the gap of two networks' rises, where examples are the same."""
        (ours, measure, results), (theirs, base, others) = one, other
        if not paired.alike(ours, theirs, ours.terms[0]):
            return []
        rows = _split(ours, measure.series(results), theirs, base.series(others))
        names = {"value": "difference"}
        return [
            {"size": row["bits"], "term": ours.terms[0]}
            | {names.get(k, k): v for k, v in row.items() if k != "bits"}
            for row in rows
        ]

    @staticmethod
    def shown(model: dict) -> dict[str, float | None]:
        """Give the length of d, the curvature along it at w, and the rise, at the fewest bits."""
        last = min(model["explained"], key=lambda item: item["bits"])
        terms = last["terms"]
        return {"length": last["length"]} | {k: terms[k][0] for k in ("kappa", "rise")}


def _layer_bits(text: str, every: list[int]) -> list[int]:
    expected = f"some of {', '.join(map(str, every))}, or 0 for none"
    found = parse.numbers(
        "layer_bits", text, expected, lambda b: b in (0, *every), kind=int, empty=True
    )
    return found or [min(every)]


def _along(subject, weights: list[Tensor], d: list[Tensor], ends: list[Tensor], what: str) -> dict:
    """Measure one of the terms along the whole of d."""
    if what == "terms":
        slope, curvature = along.slope_and_curvature(subject, weights, d)
        told = {"length": along.length(d), "norm": along.length(weights)}
        return told | {"slope": packed(slope), "curvature": packed(curvature)}
    if what == "rise":
        rise = along.moved(subject, weights, perturb.replace(ends))
        return {"rise": packed(rise), "back": packed(along.rise(subject, weights, d, -1.0))}
    scale = {"halfway": 0.5, "end": 1.0}[what]
    return {what: packed(along.slopes(subject, weights, d, scale))}


def _random(subject, weights: list[Tensor], d: list[Tensor], kind: str, draw: int) -> dict:
    """Measure the curvature along a random direction, at the length of d."""
    z = along.random(weights, d, subject.seed, draw, RANDOM[kind])
    both = sum(along.rise(subject, weights, z, sign) for sign in (1.0, -1.0))
    return {"kappa": packed(both / along.length(d) ** 2)}


def _layer(subject, name: str, w: Tensor, d: Tensor) -> dict:
    """Measure slope and curvature along a layer's d, by differences at half of it, and its rise."""
    half, back = (along.rise(subject, [w], [d], scale) for scale in (0.5, -0.5))
    told = {"layer": name, "num_weights": w.numel()}
    told |= {"length": along.length([d]), "norm": along.length([w])}
    told |= {"slope": packed(half - back), "half_curvature": packed(2 * (half + back))}
    return told | {"rise": packed(along.rise(subject, [w], [d]))}


def _estimates(subject, series: dict[str, Tensor]) -> dict[str, list[float]]:
    """Return [mean, error over examples] of each."""
    values, names = torch.stack(list(series.values())), [subject.terms[0]] * len(series)
    both = subject.means(values, names)[:, 0], subject.errors_of(values, names)[:, 0]
    return dict(zip(series, torch.stack(both, dim=1).tolist()))


def _over_draws(subject, rows: list[dict]) -> dict:
    """Return the mean curvature of random directions, both its errors, and one draw's deviation."""
    each = torch.stack([unpacked(row["kappa"]) for row in rows])
    means = subject.means(each, [subject.terms[0]] * len(each))[:, 0]
    value, examples = _estimates(subject, {"kappa": each.mean(dim=0)})["kappa"]
    found = {"kappa": value, "error_draws": paired.error(means), "error_examples": examples}
    return found | {"deviation": float(means.std()), "least": float(means.min())}


def _layers(subject, own: list[dict], rise: Tensor) -> dict:
    """Return "layers", the "sum" of their rises, and "interaction", the rest of all at once."""
    if not own:
        return {}
    rows, total = [], torch.zeros_like(rise)
    for row in own:
        each = {k: unpacked(row[k]) for k in ("slope", "half_curvature", "rise")}
        each["predicted"] = each["slope"] + each["half_curvature"]
        total += each["rise"]
        told = {k: row[k] for k in ("layer", "num_weights", "length", "norm")}
        rows.append(told | {"terms": _estimates(subject, each)})
    sums = _estimates(subject, {"sum": total, "interaction": rise - total})
    return {"layers": rows, **sums}


def _split(first, ours: dict, subject, theirs: dict) -> list[dict]:
    """Return the parts of the first network's rises less this one's; [] for itself, and where their
    examples are not the same."""
    if first is subject or not paired.alike(first, subject, first.terms[0]):
        return []
    rows = []
    for kind in (kind for kind in ours if kind in theirs):
        (whole, terms, *_), (other, others, *_) = ours[kind], theirs[kind]
        for of in (explain_split.AT_W, explain_split.ON_THE_WAY):
            parts = explain_split.gap(terms, whole["length"], others, other["length"], of)
            start = {"quantizer": kind[0], "bits": kind[1], "curvature": of}
            rows += [start | row for row in explain_split.told(subject, parts)]
    return rows
