"""Rows and pictures of exposure bias, of its record alone: over timesteps, and over priors.

The bands in pictures are 1.96 standard errors to either side.
"""

import numpy as np
from matplotlib.figure import Figure

CURVES = ("training", "sampling", "gap", "output", "output_gap", "delta")
SHIFTED = {  # what is drawn of each prior, and its axis
    "loss_rise": "rise of the noise's squared error",
    "late_norm": "‖predicted noise‖₂, last steps",
    "mean": "mean of the images' values",
    "std": "deviation of the images' values",
    "clipped": "share of values at −1 or 1",
}
BAND = 1.96
WIDTH, HEIGHT, DPI = 4.6, 4.2, 110  # inches of a panel


# Rows


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
    row = {}
    for name in [n for n in names if n in estimates]:
        for kind, end in (("value", ""), ("error", "_error")):
            found = estimates[name][kind]
            row[f"{name}{suffix}{end}"] = found if i is None else found[i]
    return row


# Pictures


def curves(record: dict) -> Figure:
    """Draw, against the timestep, both norms, their gap, and delta; a colour for each model."""
    figure = Figure(figsize=(3 * WIDTH, HEIGHT + 0.6), dpi=DPI, layout="constrained")
    axes = figure.subplots(1, 3)
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
    return _finish(figure, axes)


def priors(record: dict) -> Figure:
    """Draw a row of panels for each of `sweeps_of`."""
    sweeps = sweeps_of(record)
    size = (0.8 * WIDTH * len(SHIFTED), 0.85 * HEIGHT * len(sweeps) + 0.4)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    axes = figure.subplots(len(sweeps), len(SHIFTED), squeeze=False)
    for panels, (name, xlabel, rows) in zip(axes, sweeps):
        for axis, (quantity, ylabel) in zip(panels, SHIFTED.items()):
            for i, model in enumerate(record["models"]):
                chosen = [model["priors"][row] for row in rows]
                values, errors = zip(*(over_channels(p[quantity]) for p in chosen))
                estimate = {"value": values, "error": errors}
                _band(axis, [p[name] for p in chosen], estimate, f"C{i}", model["name"], "o-")
            if quantity in record["real_images"]:
                value, _ = over_channels(record["real_images"][quantity])
                axis.axhline(value, linestyle=":", color="0.3")
                axis.set_title("dotted: real images", fontsize="medium")
            axis.set(xlabel=xlabel, ylabel=ylabel)
    return _finish(figure, axes.flat)


def sweeps_of(record: dict) -> list[tuple[str, str, list[int]]]:
    """List what changes, its axis, and the priors in its order: mu where s = 1, and s where mu = 0.

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


def over_channels(estimate: dict) -> tuple[float, float]:
    """Return value and error of a mean over channels; the error as if the channels were one."""
    return float(np.mean(estimate["value"])), float(np.mean(estimate["error"]))


def _band(axis, x, estimate: dict, colour: str, label: str = "", style: str = "-") -> None:
    value, error = np.array(estimate["value"]), np.array(estimate["error"])
    axis.plot(x, value, style, color=colour, label=label, markersize=4)
    axis.fill_between(x, value - BAND * error, value + BAND * error, color=colour, alpha=0.2)


def _finish(figure: Figure, axes) -> Figure:
    """Add grids, and one legend of the models below all panels."""
    for axis in axes:
        axis.grid(alpha=0.3)
    lines, names = axes[0].get_legend_handles_labels()
    columns = min(len(names), 4)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.08)
    figure.legend(lines, names, loc="outside lower center", ncols=columns, frameon=False)
    return figure
