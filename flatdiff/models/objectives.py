"""What networks are trained for, by --objective: flags -> a chain, its path, target and densities.

An objective is a function of a dict with the fields of DiffusionFlags (guided-diffusion's alone are
enough for "ddpm"); its other arguments are knobs behind its name. It refuses what it has no
use for.
"""

import numpy as np

from ..chain.levels import Levels
from ..chain.respace import RHO, SIGMA_MAX, SIGMA_MIN, edm_grid, space_timesteps
from ..flags import choices
from ..flags.config import DDPM_ALONE, DiffusionFlags
from .factories import create_gaussian_diffusion


def ddpm(flags: dict):
    """guided-diffusion's chain of betas, for a network that predicts noise, image or velocity."""
    _refuse(flags, "ddpm", ("sigma_data",))
    known = {k: v for k, v in flags.items() if k in create_gaussian_diffusion.__kwdefaults__}
    known |= {"steps": flags["diffusion_steps"], "predicts": predicts_of(flags)}
    chain = create_gaussian_diffusion(**known)
    if noise_levels := flags.get("noise_levels", ""):
        whole = create_gaussian_diffusion(**known | {"timestep_respacing": ""})
        density = _density(noise_levels, whole.log_snr)
        chain.density = None if density is None else density[chain.timestep_map]
    return chain


def flow(flags: dict):
    """Straight lines from image to noise, x_t = (1 - s) x_0 + s eps; the network is told 1000 s.

    s_t = (t + 1/2) / T, so that there is an image and a noise in each (Lipman et al. 2023).
    """
    _refuse(flags, "flow", (*DDPM_ALONE, "sigma_data"))
    steps = flags["diffusion_steps"]
    s = (np.arange(steps) + 0.5) / steps
    predicts = predicts_of(flags) or "v"
    return _levels(flags, "flow", predicts, 2 * np.log((1 - s) / s), 1000 * s, "uniform")


def edm(
    flags: dict, *, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX, rho: float = RHO
):
    """Noise of growing variance, and a network inside of EDM's preconditioning (Karras et al. 2022,
    table 1): its noise levels, loss weights and densities."""
    _refuse(flags, "edm", (*DDPM_ALONE, "predict_xstart", "predicts"))
    if not (0 < sigma_min < sigma_max and rho > 0 and flags["sigma_data"] > 0):
        raise ValueError(
            f"--objective edm has sigma_min {sigma_min}, sigma_max {sigma_max}, rho {rho} and "
            f"--sigma_data {flags['sigma_data']}; expected 0 < sigma_min < sigma_max, the others "
            "above 0"
        )
    sigmas = edm_grid(flags["diffusion_steps"], sigma_min, sigma_max, rho)
    return _levels(flags, "edm", "F", -2 * np.log(sigmas), np.log(sigmas) / 4, "lognormal")


def predicts_of(flags: dict) -> str:
    """eps, x or v, "" for the objective's own; ValueError where two flags contradict each other."""
    predicts = flags.get("predicts", "")
    image = flags.get("predict_xstart", False)
    if image and predicts not in ("", "x"):
        raise ValueError(
            f"--predict_xstart True is --predicts x, and contradicts --predicts {predicts}"
        )
    return "x" if image else predicts


def _levels(flags, path, predicts, log_snr, times, noise_levels):
    respacing, steps = flags["timestep_respacing"], len(log_snr)
    if steps < 2:
        raise ValueError(f"diffusion_steps is {steps}; expected two noise levels or more")
    kept = space_timesteps(steps, respacing or [steps], log_snr)
    if len(kept) < 2:
        raise ValueError(
            f"timestep_respacing is {respacing!r}, which keeps {len(kept)} of {steps} timesteps; "
            "expected two noise levels or more"
        )
    return Levels(
        log_snr,
        path,
        predicts,
        times=times,
        density=_density(flags["noise_levels"] or noise_levels, log_snr),
        use_timesteps=kept,
        **{n: flags[n] for n in "sigma_data input_pertub eps_scaler eps_scaler_slope".split()},
    )


def _density(text: str, log_snr: np.ndarray) -> np.ndarray | None:
    """[T]; None for each level alike."""
    density = choices.bound(choices.NOISE_LEVELS, text)
    return None if text == "uniform" else density(-log_snr / 2)


def _refuse(flags: dict, objective: str, names: tuple[str, ...]) -> None:
    """ValueError for flags that say something, and that the objective does not listen to."""
    own = vars(DiffusionFlags())
    for name in names:
        if flags.get(name, own[name]) != own[name]:
            raise ValueError(
                f"--{name} {flags[name]} is not for --objective {objective}: leave it at "
                f"{own[name]!r}"
            )
