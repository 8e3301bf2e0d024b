"""Networks of any family: which noise levels they know, what they are told there and predict.

    known = family("flow", "v", times=lambda s: 1000 * s)
    levels, log_snr = known.levels([4.0, 0.0, -4.0])
    levels.training_losses(known.network(net), x_start, t, noise=noise)["mse"] * levels.x_factor[t]

is the squared error in x at three log-SNRs of a network from anywhere. No library of networks is
imported: what they give is known by its attributes.
"""

import dataclasses
import inspect
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..chain.levels import SIGMA_DATA, Levels, target
from ..chain.noising import get_named_beta_schedule
from . import diffusers_schedulers
from .diffusers_schedulers import Told
from .schedules import Chain, Curve, Flow, LogNormal

STEPS = 1000
WRAPPERS = {
    "OptimizedModule": "_orig_mod",
    "DistributedDataParallel": "module",
    "DataParallel": "module",
}
NAMED = {
    "linear": lambda: Chain(np.cumprod(1 - get_named_beta_schedule("linear", STEPS))),
    "cosine": lambda: Chain(np.cumprod(1 - get_named_beta_schedule("cosine", STEPS))),
    "flow": Flow,
    "edm": LogNormal,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """What is to be known of a network, to ask it at any log-SNR.

    schedule: has `limits`, `at`, `trained` and `density` (see `schedules`). predicts: what its
    output is; "-v", "-F": the negative of it. times: of the timestep, s, sigma or t, what the
    network is told; None: the same.
    """

    schedule: Chain | Flow | LogNormal | Curve
    predicts: str
    times: Callable[[np.ndarray], np.ndarray] | None = None
    sigma_data: float = SIGMA_DATA

    @property
    def limits(self) -> tuple[float, float]:
        """Least and greatest log-SNR that it covers, both finite."""
        return self.schedule.limits

    @property
    def timesteps(self) -> np.ndarray | None:
        """log-SNR [T] of the timesteps of a discrete chain, which training visits alike."""
        return self.schedule.log_snr if isinstance(self.schedule, Chain) else None

    def density(self, log_snr: np.ndarray) -> np.ndarray:
        """Return how often training visits log_snr [N], per unit of it; the whole integrates to 1.

        Of a chain: so that levels drawn uniformly in log-SNR, and taken to the nearest timestep,
        count in proportion to this.
        """
        return self.schedule.density(np.asarray(log_snr, np.float64))

    def trained(self, u: np.ndarray) -> np.ndarray:
        """Return the log-SNRs [N] that training draws where it draws u [N] from [0, 1)."""
        return self.schedule.trained(np.asarray(u, np.float64))

    def levels(self, log_snr: Sequence[float]) -> tuple[Levels, np.ndarray]:
        """Make a level of each log_snr [N], in their order; return them and the log-SNRs [N] taken.

        These are the given ones, or where the schedule's function of t ends, its ends; of a chain,
        those of the nearest timesteps.
        """
        found = self.schedule.at(torch.as_tensor(log_snr, dtype=torch.float64).numpy())
        times = found.times if self.times is None else np.asarray(self.times(found.times))
        if times.shape != found.times.shape:
            raise ValueError(
                f"times gives {times.shape} for {found.times.shape} noise levels; expected a "
                "function that works on arrays"
            )
        levels = Levels(
            found.log_snr,
            self.schedule.path,
            self.predicts.removeprefix("-"),
            scales=(found.alphas, found.sigmas),
            times=times,
            sigma_data=self.sigma_data,
        )
        return levels, found.log_snr

    def network(self, module: Callable) -> Callable[..., Tensor]:
        """Return (seen [N, C, ...], times [N], **kwargs) -> what the module predicts [N, C, ...].

        Where the module gives twice the channels, the first half is that and the second its
        variance. A parameter called `timestep` is given by that name.
        """
        by_name = "timestep" in parameters(module)
        negative = self.predicts.startswith("-")

        def network(seen: Tensor, times: Tensor, **kwargs) -> Tensor:
            told = {"timestep": times} if by_name else {}
            output = module(seen, *([] if by_name else [times]), **told, **kwargs)
            found = of_shape(unwrapped(output), seen.shape)
            return -found if negative else found

        return network


def family(schedule, predicts: str | None = None, times: Callable | None = None) -> Family:
    """Describe a network by its schedule, and what it predicts.

    schedule: a name of NAMED (1000 timesteps of guided-diffusion, told 0 .. 999; "flow", told s;
    "edm", told sigma, or log(sigma) / 4 if it predicts F); alphas_cumprod [T] (told 0 .. T-1); a
    function of t in [0, 1] (a float64 tensor [N]) that gives (alpha, sigma) (told t); or what says
    the rest itself: a scheduler of diffusers, a denoiser of azula or one alike (called (x_t, t) it
    gives an object whose `mean` is x_0, and its schedule(t) is (alpha, sigma)), or a Family.
    predicts: "eps"; "x"; "v": on vp alpha eps - sigma x_0, on flow dx_t/dt; "F": on edm, what is
    inside its preconditioning; "-v", "-F". times: what the network is told, of what it would be.
    """
    said = _told(schedule)
    known, predicts, times = said.schedule, predicts or said.predicts, times or said.times
    if predicts is None:
        raise ValueError("predicts is missing: expected eps, x, v, or F, what the network predicts")
    kind = str(predicts).removeprefix("-")
    target(known.path, kind, np.ones(1), np.ones(1))
    if kind == "eps" and getattr(known, "ends_in_noise", False):
        raise ValueError(
            "the schedule ends where alpha is 0, and a network that predicts eps says nothing of "
            "the image there; expected one that predicts x or v, or a schedule that ends above 0"
        )
    if kind == "F" and times is None:
        times = lambda sigma: np.log(sigma) / 4  # noqa: E731
    if known.path == "flow" and predicts == "v" and getattr(known, "rises", False):
        predicts = "-v"  # dx_t/dt where t = 1 is the image
    return Family(known, predicts, times, said.sigma_data)


def _told(schedule) -> Told | Family:
    """What a schedule says of its networks."""
    if isinstance(schedule, Family):
        return schedule
    if hasattr(schedule, "config"):
        return diffusers_schedulers.read(schedule)
    if callable(getattr(schedule, "schedule", None)):
        return Told(Curve(schedule.schedule), "x")
    if callable(schedule):
        return Told(Curve(schedule))
    if not isinstance(schedule, str) and hasattr(schedule, "__len__"):
        return Told(Chain(schedule))
    if schedule not in NAMED:
        raise ValueError(
            f"schedule is {schedule!r}; expected one of {', '.join(NAMED)}, alphas_cumprod, a "
            "scheduler of diffusers, or a function of t in [0, 1] that gives (alpha, sigma)"
        )
    return Told(NAMED[schedule]())


def inside(module: Callable) -> Callable:
    """Return what DDP or torch.compile has wrapped, or the module itself."""
    name = WRAPPERS.get(type(module).__name__)
    return inside(getattr(module, name)) if name else module


def parameters(module: Callable) -> dict[str, inspect.Parameter]:
    """Look up the parameters with which a module can be called; {} where it does not say."""
    module = inside(module)
    try:
        called = module.forward if isinstance(module, nn.Module) else module
        return dict(inspect.signature(called).parameters)
    except (TypeError, ValueError):
        return {}


def unwrapped(output) -> Tensor:
    """Find the tensor in what a network gave: itself, its `sample` or `mean`, or its first item."""
    found = output[0] if isinstance(output, (tuple, list)) and output else output
    for candidate in (found, getattr(output, "sample", None), getattr(output, "mean", None)):
        if isinstance(candidate, Tensor):
            return candidate
    raise ValueError(
        f"the network gives a {type(output).__name__}; expected a tensor, an object with a tensor "
        "`sample` or `mean`, or a tuple that begins with one"
    )


def of_shape(output: Tensor, shape: torch.Size) -> Tensor:
    """Return the output, or its first half of twice the channels of `shape` [N, C, ...]."""
    if output.shape == shape:
        return output
    channels, *rest = shape[1:]
    if output.shape == (shape[0], 2 * channels, *rest):
        return output[:, :channels]
    raise ValueError(
        f"the network gives {tuple(output.shape)} for {tuple(shape)}; expected the same, or twice "
        "the channels, of which the second half is a variance"
    )
