"""Rows, tables and pictures of exposure bias, of its record alone: over timesteps and priors."""

import numpy as np
from matplotlib.figure import Figure

from ..report import text
from ..report.figures import colours
from . import frame

UNDERFIT = 0.9  # of the noise's norm: below, a fifth of the noise's variance is not predicted
STYLES = {"training": ".3f", "sampling": ".3f", "gap": "+.3f", "delta": ".2e"}  # of cells
CURVES = ("training", "sampling", "gap", "output", "output_gap", "delta")
SHIFTED = {  # what is drawn of each prior, and its axis
    "loss_rise": "rise of the noise's squared error",
    "late_norm": "‖predicted noise‖₂, last steps",
    "mean": "mean of the images' values",
    "std": "deviation of the images' values",
    "clipped": "share of values at −1 or 1",
}
BAND = 1.96  # standard errors to either side
BANDS = "bands: 95 %, over images (1.96 standard errors to each side)"


def curve_rows(record: dict) -> list[dict]:
    """Return a row for each model and timestep."""
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


def prior_rows(record: dict) -> list[dict]:
    """Return a row for each model and prior; channels are numbered."""
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
    """Make a column each for the values, or for those at i, and for their errors."""
    return {
        f"{name}{suffix}{end}": estimates[name][kind] if i is None else estimates[name][kind][i]
        for name in names
        if name in estimates
        for kind, end in (("value", ""), ("error", "_error"))
    }


def table(record: dict, num_rows: int = 10) -> str:
    """Write each model at about num_rows timesteps, and under each prior."""
    count = len(record["timesteps"])
    shown = sorted({round(i) for i in np.linspace(0, count - 1, min(count, num_rows + 1))})
    lines = ["±: standard error over images"]
    for model in record["models"]:
        estimates = {name: (model[name], style) for name, style in STYLES.items()}
        if less := model.get("less"):
            estimates[f"gap less {less['name']}'s"] = less["gap"], STYLES["gap"]
        lines += ["", f"{model['name']}: l2 norm of the predicted noise"]
        cells = [
            [f"{record['timesteps'][t]:8}", *(_text(*pair, t) for pair in estimates.values())]
            for t in shown
        ]
        lines += [text.table([["timestep", *estimates], *cells])]
        lines += filter(None, [underfitting(record, model)])
        if len(model["priors"]) > 1:
            lines += ["", *(f"  {_of_prior(prior)}" for prior in model["priors"])]
    return "\n".join(lines)


def underfitting(record: dict, model: dict) -> str:
    """Say where the network predicts too little of the noise of real images for a gap to be read as
    exposure bias alone; "" where it does not."""
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


def _of_prior(prior: dict) -> str:
    mean, std, clipped = (over_channels(prior[name])[0] for name in ("mean", "std", "clipped"))
    return (
        f"prior N({prior['mu']:g}, {prior['s']:g}²): loss {_text(prior['loss'], '.4f')} "
        f"(rise {_text(prior['loss_rise'], '+.4f')}), "
        f"late norm {_text(prior['late_norm'], '.3f')}, "
        f"images of mean {mean:.3f}, deviation {std:.3f}, {100 * clipped:.1f} % clipped"
    )


def _text(estimate: dict, style: str, t: int | None = None) -> str:
    value, error = (estimate[k] if t is None else estimate[k][t] for k in ("value", "error"))
    return f"{value:{style}} ± {error:{style.lstrip('+')}}"


def curves(record: dict) -> Figure:
    """Draw, against the timestep, both norms, their gap, and delta; a colour for each model."""
    (figure, (norms, gaps, deltas)), timesteps = frame.panels(3), record["timesteps"]
    scaled = any(scale != 1 for scale in record["eps_scale"])
    look = colours(model["name"] for model in record["models"])
    for model in record["models"]:
        colour = look[model["name"]]
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
    title += ";\ndotted: before scaling" * scaled
    norms.axhline(record["noise_norm"], color="0.5", linewidth=0.8)
    norms.set(ylabel="‖predicted noise‖₂", title=title)
    gaps.set(ylabel="gap of ‖predicted noise‖₂", title="sampling − training")
    deltas.set(ylabel="δₜ", title="spread of xₜ about the starting images")
    for axis in (norms, gaps, deltas):
        axis.set_xlabel("timestep t (0: least noise)")
    frame.legend(figure, norms, BANDS)
    return figure


def priors(record: dict) -> Figure:
    """Draw a row of panels for each of `sweeps_of`."""
    sweeps = sweeps_of(record)
    figure, axes = frame.panels(len(sweeps) * len(SHIFTED), len(SHIFTED))
    look = colours(model["name"] for model in record["models"])
    for panels, (name, xlabel, rows) in zip(axes.reshape(len(sweeps), -1), sweeps):
        for axis, (quantity, ylabel) in zip(panels, SHIFTED.items()):
            for model in record["models"]:
                chosen = [model["priors"][row] for row in rows]
                values, errors = zip(*(over_channels(p[quantity]) for p in chosen))
                estimate = {"value": values, "error": errors}
                told = look[model["name"]], model["name"], "o-"
                _band(axis, [p[name] for p in chosen], estimate, *told)
            if real := record["real_images"].get(quantity):
                axis.axhline(over_channels(real)[0], linestyle=":", color="0.3")
                axis.set_title("dotted: real images", fontsize="medium")
            axis.set(xlabel=xlabel, ylabel=ylabel)
    frame.legend(figure, axes[0], BANDS)
    return figure


def sweeps_of(record: dict) -> list[tuple[str, str, list[int]]]:
    """List what changes, its axis, and the priors in its order: mu where s = 1, and s where mu = 0.
    A prior that is shifted both ways is in the csv alone."""
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


def over_channels(estimate: dict) -> tuple[float, float]:
    """Return value and error of a mean over channels; the error as if the channels were one."""
    return float(np.mean(estimate["value"])), float(np.mean(estimate["error"]))


def _band(axis, x, estimate: dict, colour: str, label: str = "", style: str = "-") -> None:
    value, error = np.array(estimate["value"]), np.array(estimate["error"])
    axis.plot(x, value, style, color=colour, label=label, markersize=4)
    axis.fill_between(x, value - BAND * error, value + BAND * error, color=colour, alpha=0.2)
