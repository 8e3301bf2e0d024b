"""What diffusers' schedulers say of the networks that were trained for them.

By what a scheduler has, and not by its class: diffusers itself is not imported.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from ..chain.levels import SIGMA_DATA
from .schedules import Chain, Curve, Flow, LogNormal

PREDICTS = {"epsilon": "eps", "sample": "x", "original_sample": "x", "v_prediction": "v"}


class Told(NamedTuple):
    """A schedule, what the network predicts on it, the function of s, sigma or timestep that it is
    told, and EDM's sigma_data."""

    schedule: Chain | Flow | LogNormal | Curve
    predicts: str | None = None
    times: Callable[[np.ndarray], np.ndarray] | None = None
    sigma_data: float = SIGMA_DATA


def read(scheduler) -> Told:
    """Read a scheduler; ValueError if networks of its kind are none that we can ask."""
    config, name = scheduler.config, type(scheduler).__name__
    predicts = config.get("prediction_type", "epsilon")
    if hasattr(scheduler, "precondition_noise"):
        return _edm(scheduler, config, name, predicts)
    if predicts == "flow_prediction" or hasattr(scheduler, "scale_noise"):
        return _flow(config, name)
    if not hasattr(scheduler, "alphas_cumprod"):
        raise ValueError(
            f"{name} is no scheduler that can be read: it has neither alphas_cumprod (as DDPM, "
            "DDIM, PNDM, Euler, Heun and DPMSolver have), nor EDM's precondition_noise, nor "
            "scale_noise (as FlowMatch has); name the schedule yourself"
        )
    if config.get("timestep_type") == "continuous":
        raise ValueError(
            f"{name} with timestep_type 'continuous' does not say how often training visited a "
            "noise level; expected 'discrete', or a schedule of your own"
        )
    return Told(Chain(scheduler.alphas_cumprod), _predicts(predicts, PREDICTS, name))


def _edm(scheduler, config, name: str, predicts: str) -> Told:
    """Inside the preconditioning; "v_prediction" is F with its sign turned."""
    sigmas = config["sigma_min"], config["sigma_max"]
    kinds = {"epsilon": "F", "v_prediction": "-F"}

    def times(sigmas: np.ndarray) -> np.ndarray:
        return scheduler.precondition_noise(torch.from_numpy(sigmas)).numpy()

    schedule = LogNormal(sigmas=sigmas)
    return Told(schedule, _predicts(predicts, kinds, name), times, config["sigma_data"])


def _flow(config, name: str) -> Told:
    """The velocity eps - x_0, the network told s times the number of timesteps."""
    if config.get("invert_sigmas"):
        raise ValueError(f"{name} with invert_sigmas counts its noise backwards; expected False")
    steps = config.get("num_train_timesteps", 1000)
    shift = config.get("flow_shift", config.get("shift")) or 1.0
    if config.get("use_dynamic_shifting"):  # which shifts by the size of the image, when sampling
        shift = 1.0
    return Told(Flow(shift), "v", lambda s: steps * s)


def _predicts(given: str, known: dict[str, str], name: str) -> str:
    if given not in known:
        raise ValueError(f"prediction_type of {name} is {given!r}; expected {', '.join(known)}")
    return known[given]
