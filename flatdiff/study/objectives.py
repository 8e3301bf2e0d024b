"""The objectives of a study: the chain of each, how it is sampled, and how many network calls it
takes."""

import dataclasses
import functools

import torch

from ..chain.samplers import last, walk
from ..flags import choices, config, parse
from ..models.factories import create_chain
from ..models.generate import step_of
from . import axes

PLAIN = "ddpm"  # which has no name in a study of its own
OTHERS = {f.name for f in dataclasses.fields(config.StudyFlags)} | set(axes.NOT_FOR_STUDIES)


def objectives(flags) -> dict[str, config.DiffusionFlags]:
    """Gives by name the chain's flags of each objective, in the order asked; "" where there is but
    ddpm. ValueError for flags that one has no use for."""
    found = {}
    for text in parse.parts(flags.study.objective):
        own = axes.entry("objective", text, config.DiffusionFlags, OTHERS)
        found[name_of(own)] = _chain_of(flags, own)
    return {"": found[PLAIN]} if list(found) == [PLAIN] else found


def name_of(own: dict) -> str:
    """What the tables call an entry of --objective."""
    return " ".join([own["objective"], *(f"{k}={v}" for k, v in own.items() if k != "objective")])


def left(flags) -> list[str]:
    """The flags of ddpm alone that a preset brought: the other objectives leave them at their
    defaults. Those that were typed stay, for each objective to refuse."""
    own = config.DiffusionFlags()
    changed = (n for n in config.DDPM_ALONE if getattr(flags.diffusion, n) != getattr(own, n))
    return [name for name in changed if name not in flags.typed]


def told(flags) -> str:
    """Says which flags are left at their defaults, and of which objectives; "" if none are."""
    names, found = left(flags), objectives(flags)
    others = [name for name, chain in found.items() if not _is_plain(chain.objective)]
    if not (names and others):
        return ""
    return (
        f"--preset's {', '.join(f'{n} {getattr(flags.diffusion, n)}' for n in names)} "
        f"{'is' if len(names) == 1 else 'are'} of {PLAIN} alone: not for {', '.join(others)}"
    )


def notes(flags) -> list[str]:
    """What a reader should know of objectives and samplers; [] where these are ddpm alone."""
    found = objectives(flags)
    if "" in found and not flags.study.sampler:
        return []
    several = {name or PLAIN: samplers(flags, chain) for name, chain in found.items()}
    alike = len({tuple(names) for names in several.values()}) == 1
    ways = [] if alike else [f"{n} by {' and '.join(names)}" for n, names in several.items()]
    first = " and ".join(next(iter(several.values())))
    noisy = [name or PLAIN for name, chain in found.items() if chain.learn_sigma]
    learned = f"The variance is learned, by a last layer twice as wide, by {', '.join(noisy)} alone"
    return [
        *([f"{told(flags)}."] if told(flags) else []),
        f"Samples are drawn {'; '.join(ways) or f'by {first}'}, each objective on its own grid of "
        "noise levels; where no sampler is named, by the first. Calls are those of the network.",
        f"{learned if noisy else 'No network learns the variance'}.",
    ]


def _is_plain(objective: str) -> bool:
    return objective.split()[0] == PLAIN


def _chain_of(flags, own: dict) -> config.DiffusionFlags:
    defaults = config.DiffusionFlags()
    reset = [] if _is_plain(own["objective"]) else left(flags)
    changed = {name: getattr(defaults, name) for name in ("input_pertub", *reset)} | own
    made = dataclasses.replace(flags.diffusion, **changed)
    try:
        create_chain(vars(made))
    except ValueError as error:
        raise ValueError(
            f"{error}. Flags for one objective stand behind its name, as in --objective "
            "'ddpm learn_sigma=True,flow'"
        ) from None
    return made


def samplers(flags, chain: config.DiffusionFlags) -> list[str]:
    """The samplers of --sampler, or that of the objective; the first is that of all columns which
    name none."""
    given = list(dict.fromkeys(parse.parts(flags.study.sampler)))
    return given or [choices.entry(choices.OBJECTIVES, chain.objective).sampler]


@functools.cache
def calls(chain: config.DiffusionFlags, steps: int, sampler: str) -> int:
    """How often a walk of so many steps asks the network, counted on one pixel."""
    walked = create_chain(vars(chain) | {"timestep_respacing": str(steps)})
    step, knobs = step_of(sampler)
    count = 0

    def network(x, t, **_):
        nonlocal count
        count += 1
        return x.new_zeros(1, 6 if chain.learn_sigma else 3, 1, 1)

    last(walk(walked, step, network, (1, 3, 1, 1), torch.zeros(1, 3, 1, 1), **knobs))
    return count
