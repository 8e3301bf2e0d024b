"""Studies without a training: command lines, the matrix that they make, and cells that are done."""

import dataclasses

from flatdiff.flags import config
from flatdiff.measure.frame import Line, Measure
from flatdiff.study import matrix
from flatdiff.study.matrix import Cell, Model, Training

GROUPS = {
    "study": config.StudyFlags,
    "run": config.RunFlags,
    "data": config.DataFlags,
    "train": config.TrainFlags,
    "model": config.ModelFlags,
    "diffusion": config.DiffusionFlags,
}


def parse(*argv):
    return config.parse("", list(map(str, argv)), **GROUPS)


def flags_of(data, *argv):
    return parse("--data_dir", data, "--image_size", 8, "--end_step", 40, "--seeds", 2, *argv)


def models_of(data, *argv):
    return matrix.models_of(flags_of(data, *argv), "/store")


AT_W = {"mse": {"losses": [0.1] * 5, "errors": [0.0] * 5}}


def curve(rise, name="LPF"):
    """flatness.json of three sizes; the middle one has this rise, the mean of two pairs."""
    draws = [[0.1 + rise + d] * 5 for d in (-0.001, 0.001, 0.003, -0.003)]
    points = [{"distances": [1.0] * 4, "losses": {"mse": [[0.1] * 5] * 4}} for _ in range(3)]
    points[1] = points[1] | {"losses": {"mse": draws}}
    return {name: {"models": [{"at_w": AT_W, "curve": points}], "settings": {}}}


PARTS = {"all": "-8..8", **{f"log-SNR {p}": p for p in ("4..8", "0..4", "-4..0", "-8..-4")}}


def curve_of_x(at_w, rise):
    """As `curve`, with rows of x_mse: by part, the first is the whole; twice that at sigma 2."""
    found = curve(0.01)
    found["LPF"]["rows"] = [
        {"term": term, "part": part, "levels": f"log-SNR {levels}", "sigma": sigma}
        | {"at_w": a, "rise": sigma / 2 * r if term == "x_mse" else 99.0}
        for sigma in (1.0, 2.0, 4.0)
        for term in ("x_mse", "mse")
        for (part, levels), a, r in zip(PARTS.items(), at_w, rise)
    ]
    return found


def exposure(**more):
    model = {
        "training": {"value": [8.0, 9.0, 9.8]},
        "sampling": {"value": [11.0, 9.5, 9.7]},
        "gap": {"value": [3.0, 0.5, -0.1]},
    }
    return {"noise_norm": 10.0, "timesteps": [0, 5, 9], "models": [model | more]}


ROUNDED = {"bits": 4, "length": 6.0, "terms": {"kappa": [0.002, 1e-4], "rise": [0.04, 1e-3]}}
RESULTS = {
    "LPF": curve(0.01),
    "LPF filter": curve(0.02),
    "MC": curve(0.03, "MC"),
    "HESSIAN": {"HESSIAN": {"models": [{"eigenvalues": [5.0]}]}},
    "EXPLAIN": {"EXPLAIN": {"models": [{"explained": [ROUNDED]}]}},
    "exposure": exposure(),
    "fd_20": {
        "features": "lite0",
        "metrics": {"FD-lite0": 2.0, "FD-lite0_error": 0.1, "FD-lite0_infinity": 1.5},
    },
    "fd_20_w4": {"features": "lite0", "metrics": {"FD-lite0": 3.0, "FD-lite0_error": 0.1}},
}


class Done(Cell):
    """A cell with its result in hand."""

    def result(self):
        return self.made_of["result"]


def model_of(changes=None, trained=None, seed=0, objective="", calls=None, steps=800):
    results = RESULTS | (changes or {})
    cells = {name: Done(name, {}, {"result": result}, "") for name, result in results.items()}
    seconds = {"seconds": 1.0, "processor_seconds": 2.0} if trained is None else trained
    train = Done("train", {}, {"result": seconds, "seed": seed}, "")
    gradient = "adam" if steps == 800 else f"adam {steps} steps"
    about = gradient, False, False, 0.0, seed, steps, steps / 8
    training = Training(*about, train, objective)
    return Model(training, "none", cells, calls or {})


def sampled_before(model, distances):
    """The model with samples of earlier checkpoints; distances (None: not yet) by step, from the
    last one back."""
    cells = dict(model.cells)
    for back, (step, value) in enumerate(distances.items(), 1):
        found = value and {"features": "lite0", "metrics": {"FD-lite0": value}}
        cells[f"drawn_{back}_0"] = Done("samples", {}, {"result": {}, "step": step}, "")
        cells[f"again_{back}_0"] = Done("distance", {}, {"result": found}, "")
    return dataclasses.replace(model, cells=cells)


class Toy(Measure):
    """Says what the record says."""

    @staticmethod
    def shown(model):
        return {"twice": 2 * model["toy"]}

    @staticmethod
    def lines(model):
        return [Line("pile of toys", [1.0, 2.0], [model["toy"], 0.0], "x", "y")]
