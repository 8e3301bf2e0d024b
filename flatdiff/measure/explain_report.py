"""How `explain.EXPLAIN` is told: rows, tables, sentences and pictures of a record."""

import math

import numpy as np
from matplotlib.figure import Figure

from ..report.figures import colours
from ..report.text import table
from . import frame
from .frame import number

HOLDS = 0.1  # the largest rest, as a share of the rise, of an expansion that is said to hold
DIRECTIONS = {
    "kappa": ("o-", "along d, at w"),
    "kappa_on_the_way": ("s--", "along d, on the way"),
    "kappa_random": ("^:", "random, of d's length"),
    "kappa_random_by_layer": ("v-.", "random, of d's length by layer"),
}
RANDOM = {"random": "random directions", "random by layer": "random, of d's length by layer"}
STACK = {"slope": "slope g.d", "half_curvature": "curvature d.Hd / 2", "rest": "rest"}
PARTS = {"length": "length of d", "curvature": "curvature", "slope": "slope", "rest": "rest"}


def rows(record: dict) -> list[dict]:
    """Return a row for each network and kind of rounding."""
    found = []
    for model in record["models"]:
        for item in model["explained"]:
            row = {"model": model["name"], "of": item["of"]}
            row |= {name: item[name] for name in ("quantizer", "bits", "length", "norm")}
            row["relative_length"] = item["length"] / (item["norm"] or math.inf)
            terms = item["terms"]
            row |= _columns(terms)
            for share, rest in (("rest_share", "rest"), ("path_rest_share", "path_rest")):
                row[share] = terms[rest][0] / terms["rise"][0] if terms["rise"][0] else math.nan
            row |= {
                "holds": _holds(row["rest_share"]),
                "path_holds": _holds(row["path_rest_share"]),
            }
            for kind, values in item["random"].items():
                name = f"kappa_{kind.replace(' ', '_')}"
                both = values["error_draws"], values["error_examples"]
                row |= {name: values["kappa"], f"{name}_error": math.hypot(*both)}
                row |= {f"{name}_deviation": values["deviation"]}
            row |= _columns({k: item.get(k, [None, None]) for k in ("sum", "interaction")})
            found.append(row)
    return found


def tables(record: dict) -> dict[str, list[dict]]:
    """Return the rows; of layers; of the parts of gaps."""
    found = {"": record["rows"]} | ({"_layers": found} if (found := layers(record)) else {})
    split = [{"model": m["name"], **row} for m in record["models"] for row in m["split"]]
    return found | ({"_split": split} if split else {})


def layers(record: dict) -> list[dict]:
    """Return a row for each layer of each network."""
    found = []
    for model in record["models"]:
        for item in (item for item in model["explained"] if "layers" in item):
            for layer in item["layers"]:
                row = {"model": model["name"], "quantizer": item["quantizer"], "bits": item["bits"]}
                row |= {k: v for k, v in layer.items() if k != "terms"}
                row["relative_length"] = layer["length"] / (layer["norm"] or math.inf)
                found.append(row | _columns(layer["terms"]))
    return found


def text(record: dict) -> str:
    """Write the terms, in what they hold, curvatures, layers, and the parts of gaps."""
    blocks = [
        "+-: standard error over examples and noise levels, on the same ones for all; of random "
        "directions, over these too",
        _terms(record["rows"]),
        *(_sentence(mine) for mine in _by_model(record["rows"]).values()),
        _curvatures(record["rows"]),
        *_interactions(record["rows"]),
        *([_worst(layers(record))] if layers(record) else []),
        *(_split(record["models"][0]["name"], m) for m in record["models"] if m["split"]),
    ]
    return "\n\n".join(blocks)


def _terms(rows: list[dict]) -> str:
    head = [f"rise of {rows[0]['of']}", "quantizer", "bits", "||d||", "of ||w||"]
    for name in ("g.d", "d.Hd/2", "rest", "rise"):
        head += [name, "+-"]
    lines = [
        [row["model"], row["quantizer"], str(row["bits"]), number(row["length"])]
        + [f"{100 * row['relative_length']:.3g} %"]
        + _cells(row, *STACK, "rise")
        + [_percent(row["rest_share"]), _percent(row["path_rest_share"]), row["holds"]]
        for row in rows
    ]
    return table([[*head, "rest/rise", "Simpson's", "holds"], *lines])


def _sentence(rows: list[dict]) -> str:
    """Say of one network and quantizer where the expansion holds, and what Simpson's rule does."""
    parts = []
    for rest, name in (("rest_share", "the expansion at w"), ("path_rest_share", "Simpson's rule")):
        good = [f"{r['bits']}" for r in rows if _holds(r[rest]) == "yes"]
        bad = [f"{r['bits']} ({_percent(r[rest])})" for r in rows if _holds(r[rest]) != "yes"]
        told = f"{name} is within {HOLDS:.0%} of the rise at {', '.join(good)} bits" if good else ""
        lost = f"{name} breaks at {', '.join(bad)} bits" if bad else ""
        parts.append("; ".join(filter(None, (told, lost))))
    return f"{rows[0]['model']}, {rows[0]['quantizer']}: {'. '.join(parts)}."


def _curvatures(rows: list[dict]) -> str:
    head = ["curvature along", "quantizer", "bits", "d, at w", "+-", "d, on the way", "+-"]
    head += ["d, at its length", "+-"]
    head += [word for kind in RANDOM.values() for word in (kind, "+-")]
    names = ["kappa", "kappa_on_the_way", "kappa_at_length"]
    names += [f"kappa_{kind.replace(' ', '_')}" for kind in RANDOM]
    lines = [[r["model"], r["quantizer"], str(r["bits"]), *_cells(r, *names)] for r in rows]
    return table([head, *lines])


def _interactions(rows: list[dict]) -> list[str]:
    return [
        f"{row['model']}, {row['quantizer']}, {row['bits']} bits: the layers' rises one at a time "
        f"add up to {number(row['sum'])} +- {number(row['sum_error'])}; all at once rise "
        f"{number(row['interaction'])} +- {number(row['interaction_error'])} more "
        f"({_percent(row['interaction'] / row['rise'] if row['rise'] else math.nan)} of the rise)."
        for row in rows
        if row["sum"] is not None
    ]


def _worst(rows: list[dict], count: int = 5) -> str:
    head = [f"the {count} layers that rise most", "quantizer", "bits", "layer", "||d||", "of ||w||"]
    for name in ("g.d", "d.Hd/2", "predicted", "rise"):
        head += [name, "+-"]
    lines = []
    for mine in _by_model(rows).values():
        for row in sorted(mine, key=lambda row: -row["rise"])[:count]:
            start = [row["model"], row["quantizer"], str(row["bits"]), row["layer"]]
            start += [number(row["length"]), f"{100 * row['relative_length']:.3g} %"]
            lines.append(start + _cells(row, "slope", "half_curvature", "predicted", "rise"))
    return table([head, *lines])


def _split(first: str, model: dict) -> str:
    head = [f"rise of {first} less that of {model['name']}", "bits", "curvature", "part", "value"]
    head += ["95 %", "", "share", "95 %", ""]
    names = "value", "low", "high"
    lines = [
        [row["quantizer"], str(row["bits"]), row["curvature"], row["part"]]
        + [number(row[name]) for name in names]
        + [_percent(row[name]) for name in ("share", "share_low", "share_high")]
        for row in model["split"]
        if row["part"] != "gap" or row["curvature"] == "at w"
    ]
    note = "of these two checkpoints, over examples; parts by the symmetric product rule"
    return f"{note}\n\n{table([head, *lines])}"


def figures(record: dict) -> dict[str, Figure]:
    """Draw the terms as shares of the rise, curvatures, and parts of the gap; and layers."""
    split = [(m["name"], m["split"]) for m in record["models"] if m["split"]]
    called = short([m["name"] for m in record["models"]])
    figure, axes = frame.panels(2 + len(split))
    figure.set_figheight(figure.get_figheight() * 1.25)
    rows, of_layers = (
        [row | {"model": called[row["model"]]} for row in r]
        for r in (record["rows"], layers(record))
    )
    _draw_terms(axes[0], rows)
    _draw_curvatures(axes[1], rows)
    for axis, (name, parts) in zip(axes[2:], split):
        _draw_split(axis, f"{called[record['models'][0]['name']]} less {called[name]}", parts)
    return {"": figure} | ({"_layers": _draw_layers(of_layers)} if of_layers else {})


def _draw_terms(axis, rows: list[dict]) -> None:
    """Stack the terms as shares of the rise: above 0 those that add to it, below those that do not;
    the rise itself, with its error, is at 1."""
    place = np.arange(len(rows))
    above, below = np.zeros(len(rows)), np.zeros(len(rows))
    rise = np.array([abs(row["rise"]) or 1.0 for row in rows])
    for name, label in STACK.items():
        value = np.array([row[name] for row in rows]) / rise
        axis.bar(place, value, 0.7, np.where(value > 0, above, below), label=label)
        above, below = above + value.clip(min=0), below + value.clip(max=0)
    error = np.array([row["rise_error"] for row in rows]) / rise
    measured = np.sign([row["rise"] for row in rows])
    axis.errorbar(place, measured, error, fmt="k_", capsize=4, label="measured rise, +- 1 error")
    predicted = np.array([row["path"] for row in rows]) / rise
    axis.plot(place, predicted, "wD", markeredgecolor="k", markersize=4, label="Simpson's rule")
    several = len({row["quantizer"] for row in rows}) > 1
    names = [f"{r['model']}{(', ' + r['quantizer']) * several}, {r['bits']} bits" for r in rows]
    axis.set_xticks(place, names, rotation=60, ha="right", fontsize="small")
    axis.set_ylabel("share of the measured rise")
    _legend(axis)


def _draw_curvatures(axis, rows: list[dict]) -> None:
    """Draw each curvature against bits: a colour a network and quantizer, a line a direction."""
    groups, values = _by_model(rows), []
    several = len({quantizer for _, quantizer in groups}) > 1
    look_of = colours(groups)
    for (model, quantizer), mine in groups.items():
        colour = look_of[model, quantizer]
        axis.plot([], [], color=colour, label=f"{model}{(', ' + quantizer) * several}")
        for name, (look, _) in DIRECTIONS.items():
            x, y, error = ([row[key] for row in mine] for key in ("bits", name, f"{name}_error"))
            axis.errorbar(x, y, error, fmt=look, color=colour, capsize=3, markersize=4)
            values += y
    for look, label in DIRECTIONS.values():
        axis.plot([], [], look, color="grey", markersize=4, label=label)
    axis.set_yscale("log" if min(values) > 0 else "symlog")
    axis.set(xlabel="bits of a weight", ylabel="curvature d.Hd / |d|^2, +- 1 error")
    axis.set_xticks(sorted({row["bits"] for row in rows}))
    _legend(axis)


def _draw_split(axis, title: str, rows: list[dict]) -> None:
    """Draw the parts of the gap at each kind of rounding, by the curvature at w and on the way;
    none where the gap's interval holds 0."""
    kinds = list(dict.fromkeys((row["quantizer"], row["bits"]) for row in rows))
    several = len({quantizer for quantizer, _ in kinds}) > 1
    for i, (part, label) in enumerate(PARTS.items()):
        for of, alpha in (("at w", 1.0), ("on the way", 0.5)):
            mine = [row for row in rows if row["part"] == part and row["curvature"] == of]
            x = np.arange(len(mine)) + 0.22 * i - 0.33 + 0.1 * (of == "on the way")
            keys = ("share", "share_low", "share_high")
            value, low, high = (np.array([row[key] for row in mine]) for key in keys)
            how = {"color": f"C{i}", "alpha": alpha, "capsize": 2, "ecolor": "k"}
            how["label"] = f"{label}, {of}" if i < 2 else label if of == "at w" else None
            if mine:
                axis.bar(x, value, 0.1, yerr=[value - low, high - value], **how)
    unseen = {(r["quantizer"], r["bits"]) for r in rows if r["part"] == "gap" and not r["seen"]}
    names = [
        f"{bits} bits{(', ' + quantizer) * several}{', not told from 0' * (kind in unseen)}"
        for kind in kinds
        for quantizer, bits in [kind]
    ]
    axis.set_xticks(range(len(kinds)), names, rotation=60, ha="right", fontsize="small")
    axis.set(ylabel=f"share of the gap, {title}, 95 %", xlim=(-0.6, len(kinds) - 0.4))
    axis.axhline(0, color="k", linewidth=0.8)
    _legend(axis)


def _draw_layers(rows: list[dict], most: int = 40) -> Figure:
    """Draw the rises of the layers that rise most, measured as bars, predicted as marks: a panel a
    network and quantizer."""
    groups = _by_model(rows)
    top = {row["layer"]: row["rise"] for row in sorted(rows, key=lambda row: row["rise"])}
    names = [n for n in dict.fromkeys(r["layer"] for r in rows) if n in list(top)[-most:]]
    size = 3 + 3.2 * len(groups), 2 + 0.16 * len(names)
    figure = frame.Picture(figsize=size, dpi=frame.DPI, layout="constrained")
    axes = figure.subplots(1, len(groups), squeeze=False, sharey=True)[0]
    for axis, ((model, quantizer), mine) in zip(axes, groups.items()):
        mine = [row for row in mine if row["bits"] == mine[-1]["bits"] and row["layer"] in names]
        place = [names.index(row["layer"]) for row in mine]
        keys = ("rise", "rise_error", "predicted")
        rise, error, predicted = ([row[key] for row in mine] for key in keys)
        axis.barh(place, rise, xerr=error, label="measured, +- 1 error", ecolor="grey")
        axis.plot(predicted, place, "k|", label="g.d + d.Hd / 2")
        axis.set_title(f"{model}, {quantizer}, {mine[0]['bits']} bits", fontsize="medium")
        axis.set_xlabel("rise of the loss, this layer rounded alone")
        axis.ticklabel_format(axis="x", scilimits=(-2, 3))
        axis.grid(alpha=0.3)
        axis.legend(fontsize="x-small")
    axes[0].set_yticks(range(len(names)), names, fontsize="xx-small")
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    return figure


def _legend(axis) -> None:
    axis.legend(fontsize="x-small", loc="lower center", bbox_to_anchor=(0.5, 1.01), ncols=2)


def short(names: list[str]) -> dict[str, str]:
    """Return names without the file that all of them have, where the rest tells them apart."""
    parts = [name.rpartition("/") for name in names]
    rest = {folder for folder, _, _ in parts}
    alike = len({file for _, _, file in parts}) == 1 and len(rest) == len(names) and "" not in rest
    return {name: folder if alike else name for name, (folder, _, _) in zip(names, parts)}


def _columns(terms: dict[str, list]) -> dict[str, float | None]:
    return {
        f"{name}{end}": value
        for name, values in terms.items()
        for end, value in zip(("", "_error"), values)
    }


def _holds(share: float) -> str:
    return "yes" if abs(share) <= HOLDS else "no"


def _by_model(rows: list[dict]) -> dict[tuple[str, str], list[dict]]:
    """Return the rows of each network and quantizer."""
    found = {}
    for row in rows:
        found.setdefault((row["model"], row["quantizer"]), []).append(row)
    return found


def _cells(row: dict, *names: str) -> list[str]:
    return [number(row[key]) for name in names for key in (name, f"{name}_error")]


def _percent(share: float | None) -> str:
    return "" if share is None or math.isnan(share) else f"{100 * share:.3g} %"
