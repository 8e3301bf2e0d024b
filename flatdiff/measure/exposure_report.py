"""What a study of exposure bias found (exposure_run.study): a table, json, csv, and pictures.

Errors are standard errors over images; the bands in pictures are 1.96 of them to either side.
"""

import os

import matplotlib
import numpy as np

from ..store import checkpoint, disk

matplotlib.use("Agg")
from matplotlib import pyplot as plt

CURVES = ("training", "sampling", "gap", "output", "output_gap", "delta")
SHIFTED = {  # what is drawn of each prior, and its axis
    "loss_rise": "rise of the noise's squared error",
    "late_norm": "‖predicted noise‖₂, last steps",
    "mean": "mean of the images' values",
    "std": "deviation of the images' values",
    "clipped": "share of values at −1 or 1",
}
BAND = 1.96
UNDERFIT = 0.9  # of the noise's norm: below, a fifth of the noise's variance is not predicted
WIDTH, HEIGHT = 4.6, 4.2  # inches of a panel


def table(record: dict, num_rows: int = 10) -> str:
    """Each model at about num_rows timesteps, and under each prior."""
    count = len(record["timesteps"])
    shown = sorted({round(i) for i in np.linspace(0, count - 1, min(count, num_rows + 1))})
    lines = ["±: standard error over images"]
    for model in record["models"]:
        less = model.get("less")
        head = ["timestep", "training", "sampling", "gap", "delta"]
        head += [f"gap less {less['name']}'s"] if less else []
        lines += ["", f"{model['name']}: l2 norm of the predicted noise"]
        rows = [head] + [_row(record, model, t) for t in shown]
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines += ["  ".join(cell.rjust(w) for cell, w in zip(row, widths)) for row in rows]
        lines += filter(None, [underfitting(record, model)])
        if len(model["priors"]) > 1:
            lines += ["", *(f"  {_of_prior(prior)}" for prior in model["priors"])]
    return "\n".join(lines)


def underfitting(record: dict, model: dict) -> str:
    """Where the network predicts too little of the noise of real images for a gap to be read as
    exposure bias alone, in words; "" where it does not."""
    noise = record["noise_norm"]
    norms = zip(record["timesteps"], model["training"]["value"])
    low = [(t, norm / noise) for t, norm in norms if norm is not None and norm < UNDERFIT * noise]
    if not low:
        return ""
    (first, share), (last, _) = low[0], low[-1]
    where = f"timestep {first}" if len(low) == 1 else f"{len(low)} timesteps from {first} to {last}"
    return (
        f"underfitting: at {where} the norm in training is below {UNDERFIT:.0%} of the noise's, "
        f"{noise:.4g} ({share:.0%} at {first}): the network predicts too little noise on real "
        "images too, and a gap there is no measure of exposure bias alone"
    )


def _row(record: dict, model: dict, t: int) -> list[str]:
    cells = [str(record["timesteps"][t])]
    cells += [_text(model[curve], ".3f", t) for curve in ("training", "sampling")]
    cells += [_text(model["gap"], "+.3f", t), _text(model["delta"], ".2e", t)]
    return cells + ([_text(model["less"]["gap"], "+.3f", t)] if "less" in model else [])


def _of_prior(prior: dict) -> str:
    mean, std, clipped = (_over_channels(prior[name])[0] for name in ("mean", "std", "clipped"))
    return (
        f"prior N({prior['mu']:g}, {prior['s']:g}²): loss {_text(prior['loss'], '.4f')} "
        f"(rise {_text(prior['loss_rise'], '+.4f')}), "
        f"late norm {_text(prior['late_norm'], '.3f')}, "
        f"images of mean {mean:.3f}, deviation {std:.3f}, {100 * clipped:.1f} % clipped"
    )


def _text(estimate: dict, style: str, t: int | None = None) -> str:
    value, error = (estimate[k] if t is None else estimate[k][t] for k in ("value", "error"))
    return f"{value:{style}} ± {error:{style.lstrip('+')}}"


def save(record: dict, folder: str) -> list[str]:
    """exposure_bias.json, .csv and .png, and where priors were shifted prior_shift.csv and .png.

    Returns their absolute paths.
    """
    curves, shifts = (
        os.path.join(checkpoint.absolute(folder), name) for name in ("exposure_bias", "prior_shift")
    )
    checkpoint.save_json(record, f"{curves}.json")
    disk.write_csv(_curve_rows(record), f"{curves}.csv")
    draw_curves(record, f"{curves}.png")
    paths = [f"{curves}.json", f"{curves}.csv", f"{curves}.png"]
    if len(record["models"][0]["priors"]) > 1:
        disk.write_csv(_prior_rows(record), f"{shifts}.csv")
        paths.append(f"{shifts}.csv")
        if _sweeps(record):
            draw_priors(record, f"{shifts}.png")
            paths.append(f"{shifts}.png")
    return paths


def _curve_rows(record: dict) -> list[dict]:
    """A row for each model and timestep."""
    return [
        {
            "model": model["name"],
            "timestep": record["timesteps"][t],
            "eps_scale": record["eps_scale"][t],
            **_columns(model, CURVES, t),
            "perfect_delta": record["perfect_delta"][t],
            **_columns(model.get("less", {}), ("gap", "delta"), t, "_less_first"),
        }
        for model in record["models"]
        for t in range(len(record["timesteps"]))
    ]


def _prior_rows(record: dict) -> list[dict]:
    """A row for each model and prior; channels are numbered."""
    rows = []
    for model in record["models"]:
        for i, prior in enumerate(model["priors"]):
            row = {"model": model["name"], "mu": prior["mu"], "s": prior["s"]}
            row |= _columns(prior, ("loss", "loss_rise", "late_norm", "clipped"))
            for channel in range(len(prior["mean"]["value"])):
                row |= _columns(prior, ("mean", "std"), channel, f"_{channel}")
            less = model["less"]["priors"][i] if "less" in model else {}
            rows.append(row | _columns(less, ("loss", "loss_rise"), None, "_less_first"))
    return rows


def _columns(estimates: dict, names, i: int | None = None, suffix: str = "") -> dict:
    """A column each for the values, or for those at i, and for their errors."""
    row = {}
    for name in [n for n in names if n in estimates]:
        for kind, end in (("value", ""), ("error", "_error")):
            found = estimates[name][kind]
            row[f"{name}{suffix}{end}"] = found if i is None else found[i]
    return row


# Pictures


def draw_curves(record: dict, path: str) -> None:
    """Against the timestep: both norms, their gap, and delta; a colour for each model."""
    figure, axes = plt.subplots(1, 3, figsize=(3 * WIDTH, HEIGHT + 0.6), layout="constrained")
    timesteps = record["timesteps"]
    norms, gaps, deltas = axes
    scaled = any(scale != 1 for scale in record["eps_scale"])
    for i, model in enumerate(record["models"]):
        colour = f"C{i}"
        norms.plot(timesteps, model["training"]["value"], "--", color=colour)
        norms.plot(timesteps, model["sampling"]["value"], color=colour, label=model["name"])
        if scaled:
            norms.plot(timesteps, model["output"]["value"], ":", color=colour)
        _band(gaps, timesteps, model["gap"], colour)
        _band(deltas, timesteps, model["delta"], colour)
    gaps.axhline(0, color="0.5", linewidth=0.8)
    label = "perfect sampler, to another image"
    deltas.plot(timesteps, record["perfect_delta"], ":", color="0.3", label=label)
    deltas.legend(fontsize="small")
    title = "dashed: training; solid: sampling; grey: noise"
    norms.axhline(record["noise_norm"], color="0.5", linewidth=0.8)
    norms.set(
        ylabel="‖predicted noise‖₂", title=f"{title};\ndotted: before scaling" if scaled else title
    )
    gaps.set(ylabel="gap of ‖predicted noise‖₂", title="sampling − training")
    deltas.set(ylabel="δₜ", title="spread of xₜ about the starting images")
    for axis in axes:
        axis.set_xlabel("timestep t (0: least noise)")
    _finish(figure, axes, path)


def draw_priors(record: dict, path: str) -> None:
    """A row of panels for each of `_sweeps`."""
    sweeps = _sweeps(record)
    size = (0.8 * WIDTH * len(SHIFTED), 0.85 * HEIGHT * len(sweeps) + 0.4)
    figure, axes = plt.subplots(
        len(sweeps), len(SHIFTED), figsize=size, layout="constrained", squeeze=False
    )
    for panels, (name, xlabel, rows) in zip(axes, sweeps):
        for axis, (quantity, ylabel) in zip(panels, SHIFTED.items()):
            for i, model in enumerate(record["models"]):
                chosen = [model["priors"][row] for row in rows]
                values, errors = zip(*(_over_channels(p[quantity]) for p in chosen))
                estimate = {"value": values, "error": errors}
                _band(axis, [p[name] for p in chosen], estimate, f"C{i}", model["name"], "o-")
            if quantity in record["real_images"]:
                value, _ = _over_channels(record["real_images"][quantity])
                axis.axhline(value, linestyle=":", color="0.3")
                axis.set_title("dotted: real images", fontsize="medium")
            axis.set(xlabel=xlabel, ylabel=ylabel)
    _finish(figure, axes.flat, path)


def _sweeps(record: dict) -> list[tuple[str, str, list[int]]]:
    """What changes, its axis, and the priors in its order: mu where s = 1, and s where mu = 0.

    A prior that is shifted both ways is in the csv alone.
    """
    priors = record["models"][0]["priors"]
    found = []
    for name, other, fixed, label in (
        ("mu", "s", 1, "mean μ of the prior N(μ, 1)"),
        ("s", "mu", 0, "deviation s of the prior N(0, s²)"),
    ):
        rows = [i for i, prior in enumerate(priors) if prior[other] == fixed]
        if len(rows) > 1:
            found.append((name, label, sorted(rows, key=lambda i, n=name: priors[i][n])))
    return found


def _over_channels(estimate: dict) -> tuple[float, float]:
    """Value and error of a mean over channels; the error as if the channels were one."""
    return float(np.mean(estimate["value"])), float(np.mean(estimate["error"]))


def _band(axis, x, estimate: dict, colour: str, label: str = "", style: str = "-") -> None:
    value, error = np.array(estimate["value"]), np.array(estimate["error"])
    axis.plot(x, value, style, color=colour, label=label, markersize=4)
    axis.fill_between(x, value - BAND * error, value + BAND * error, color=colour, alpha=0.2)


def _finish(figure, axes, path: str) -> None:
    """Grids, and one legend of the models below all panels."""
    for axis in axes:
        axis.grid(alpha=0.3)
    lines, names = axes[0].get_legend_handles_labels()
    columns = min(len(names), 4)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.08)
    figure.legend(lines, names, loc="outside lower center", ncols=columns, frameon=False)
    with disk.writing(path) as file:
        figure.savefig(file, dpi=110)
    plt.close(figure)
