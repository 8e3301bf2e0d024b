"""Who reads which flag: one that was given and that nothing reads is an error, or a line.

An error where what would read it was left as it is by default, so that it was forgotten: --rho
without --optimizer adam-sam. A line of the log where that was given too, --optimizer adam --rho
0.1, where the value is the default, where it is harmless, and where a script takes flags of others,
so that whole strings can be pasted. Imports no torch, but for the measure that was asked for.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from . import choices

READ_ANYWAY = {"use_fp16", "class_dropout"}  # of groups that are else not read
PLAIN = "adam"


@dataclasses.dataclass(frozen=True)
class Reader:
    """`names`: flags of the group called `of`, which are read where `reads` says so of all flags.
    `by`: what that takes. `switch`: the flag that, if given, shows that nothing was forgotten;
    "": none does. `off`: values that ask for nothing, beside the default."""

    names: str
    of: str
    by: str
    reads: Callable[[SimpleNamespace], Any]
    switch: str = ""
    harmless: bool = False
    off: tuple = ()


def _climbs(f) -> bool:
    return choices.named(choices.GRADIENTS, f.train.optimizer)[0] != PLAIN


def _end(f) -> float:
    """The step that a training ends at."""
    train = f.train
    return train.end_step or (0 if train.use_swa else train.lr_anneal_steps) or math.inf


def _trains(f) -> bool:
    return "train" not in f.unread


def _samples(f) -> bool:
    """Whether noise is walked back by the chain of the flags."""
    if _trains(f) and hasattr(f, "train"):
        return f.train.sample_interval or _evaluates(f)
    return any(hasattr(f, group) for group in ("sample", "exposure", "averages"))


def _rounds(f) -> bool:
    """Whether weights are rounded, as far as flags say: a packed file says it itself."""
    paths = (getattr(group, "model_path", "") for group in vars(f).values())
    return f.quant.quant or any(".safetensors" in path for path in paths)


def _calibrates(f) -> bool:
    return f.quant.quant_range.startswith("gptq") or f.quant.quant_act_bins


def _averages(f) -> bool:
    """Whether samples or exposure bias are measured on the way to --average_path."""
    moves = f.exposure.move if hasattr(f, "exposure") else getattr(f.sample, "moves", "towards")
    return "towards" in (moves or ("" if hasattr(f, "exposure") else "towards"))


SAM = "a gradient that climbs, as --optimizer adam-sam"
SWA, JUDGED, ROUNDED = "--use_swa True", "--eval_interval N", "--quant N"
ROUNDING = "quant_granularity quant_group quant_symmetric quant_range quant_skip quant_calibration"
IN_TRAINING = "dropout use_checkpoint input_pertub noise_levels use_kl rescale_learned_sigmas"
OF_CLUSTER = "partition time gpus cpus_per_task mem cluster_options"
READERS = (
    Reader("rho", "train", SAM, _climbs, "optimizer", off=(0.0,)),
    Reader("sam_sync sam_every sam_start sam_share", "train", SAM, _climbs, "optimizer"),
    Reader("sam_start", "train", "an --end_step above it", lambda f: f.train.sam_start < _end(f)),
    Reader("swa_window swa_start", "train", SWA, lambda f: f.train.use_swa, "use_swa"),
    Reader("swa_start", "train", "an --end_step above it", lambda f: f.train.swa_start < _end(f)),
    Reader("swa_lr_min", "train", SWA, lambda f: f.train.use_swa, "use_swa"),
    Reader(
        "swa_lr_min",
        "train",
        "--lr_anneal_steps N",
        lambda f: f.train.lr_anneal_steps,
        "lr_anneal_steps",
    ),
    Reader(
        "fp16_scale_growth",
        "train",
        "--dtype fp16",
        lambda f: f.run.dtype in ("fp16", "auto") or f.model.use_fp16,
        harmless=True,
    ),
    Reader("init_from", "train", "no --resume_checkpoint", lambda f: not f.train.resume_checkpoint),
    Reader("iterations", "train", "no --end_step", lambda f: not f.train.end_step, harmless=True),
    Reader(
        "eval_interval",
        "train",
        "--val_data_dir DIR",
        lambda f: f.train.val_data_dir,
        "val_data_dir",
    ),
    Reader(
        "features inception_weights dinov2_weights eval_samples eval_batch",
        "evaluation",
        JUDGED,
        lambda f: f.evaluation.eval_interval,
        "eval_interval",
    ),
    *(
        Reader(
            f"{name}_weights",
            of,
            f"--features {name}",
            lambda f, of=of, name=name: vars(f)[of].features == name,
            "features",
        )
        for of in ("evaluation", "sample", "bench", "averages", "compare")
        for name in ("inception", "dinov2")
    ),
    Reader(
        "class_from num_classes",
        "model data",
        "--class_cond True",
        lambda f: f.model.class_cond or hasattr(f, "classifier") or not _trains(f),
        harmless=True,
    ),
    Reader(
        "eps_scaler eps_scaler_slope",
        "diffusion",
        "sampling, as by image_sample.py, or while training by --sample_interval N",
        _samples,
        harmless=True,
    ),
    Reader(
        IN_TRAINING,
        "model diffusion",
        "training",
        lambda f: _trains(f) or type(getattr(f, "sample", None)).__name__ != "SampleFlags",
        harmless=True,
    ),
    Reader(
        "image_size", "model", "no --large_size", lambda f: not hasattr(f, "super_res"), "", True
    ),
    Reader(ROUNDING, "quant", ROUNDED, _rounds, "quant"),
    Reader(
        "quant_group",
        "quant",
        "--quant_granularity group",
        lambda f: f.quant.quant_granularity == "group" or not f.quant.quant,
        "quant_granularity",
    ),
    Reader(
        "quant_calibration",
        "quant",
        "--quant_range gptq or --quant_act_bins N",
        lambda f: _calibrates(f) or not f.quant.quant,
        "quant_range",
    ),
    Reader(
        "num_images",
        "quant",
        "--quant N --data_dir DIR",
        lambda f: f.quant.quant and f.data.data_dir,
        harmless=True,
    ),
    Reader(
        "data_dir class_from transparent num_workers",
        "data",
        "the loss at rounded weights: --quant N",
        lambda f: not hasattr(f, "sample") or not hasattr(f, "quant") or _rounds(f),
        harmless=True,
    ),
    Reader("average_path", "exposure", "--move towards", _averages, "move"),
    Reader("average_path", "sample", "--moves towards", _averages, "moves"),
    Reader(OF_CLUSTER, "study", "--cluster slurm", lambda f: f.study.cluster, "cluster"),
    Reader("jobs", "study", "no --cluster", lambda f: not f.study.cluster, harmless=True),
)


def _evaluates(f) -> bool:
    return hasattr(f, "evaluation") and f.evaluation.eval_interval > 0


def check(flags: SimpleNamespace) -> None:
    """ValueError for flags that were given, that nothing reads, and that a number was asked by."""
    wrong = [f"--{n}, which needs {r.by}" for n, r in _idle(flags) if _is_wrong(flags, n, r)]
    if wrong:
        raise ValueError(
            f"nothing here would read {'; nor '.join(wrong)}: give that too, or leave the flag out"
        )


def told(flags: SimpleNamespace) -> list[str]:
    """A line for each kind of flags that were given, and that nothing reads."""
    found = [(n, r) for n, r in _idle(flags) if not _is_wrong(flags, n, r)]
    lines = [f"--{n} changes nothing here: it needs {r.by}" for n, r in found]
    unread = [n for n in _asked(flags) if _owner(flags, n) in flags.unread and n not in READ_ANYWAY]
    if unread:
        names = ", ".join(f"--{name}" for name in unread)
        lines.append(f"taken, as flags that are pasted for other commands, and not read: {names}")
    chain = getattr(flags, "diffusion", None)
    if chain and chain.timestep_respacing and _trains(flags) and hasattr(flags, "train"):
        lines.append(
            f"warning: --timestep_respacing {chain.timestep_respacing} in training: the network is "
            "trained at these timesteps alone, and samplers will walk all of them; leave it to "
            "sampling"
        )
    return lines


def _idle(flags) -> Iterator[tuple[str, Reader]]:
    """What was asked for and is read by nothing, each with its first reader."""
    left = dict.fromkeys(_asked(flags))
    for reader in (*READERS, *_of_measure(flags)):
        for name in [n for n in reader.names.split() if n in left]:
            own = _owner(flags, name) in {*reader.of.split()} - {*flags.unread}
            own &= not hasattr(flags, "study") or reader.of == "study"  # whose cells have the rest
            if own and not reader.reads(flags):
                del left[name]
                yield name, reader


def _is_wrong(flags, name: str, reader: Reader) -> bool:
    group = getattr(flags, _owner(flags, name))
    value, default = getattr(group, name), getattr(type(group), name)
    said = reader.switch and reader.switch in flags.given
    return not (reader.harmless or said or value == default or value in reader.off)


def _of_measure(flags) -> Iterator[Reader]:
    """The flags that are arguments of some measures of flatness, and not of the one asked for."""
    if not hasattr(flags, "flatness"):
        return
    own, table = {f.name for f in dataclasses.fields(flags.flatness)}, choices.FLATNESS
    if not own & {*_asked(flags)} - {"flatness", "model_path"}:
        return
    kind = choices.named(choices.MEASURES, flags.flatness.flatness)[0]
    known = {name: inspect.signature(table[name].load()).parameters.keys() & own for name in table}
    for name in sorted(set().union(*known.values()) - known.get(kind, own)):
        by = " or ".join(measure for measure, names in known.items() if name in names)
        yield Reader(name, "flatness", f"--flatness {by}", lambda f: False, "flatness")


def _asked(flags) -> list[str]:
    """What was typed, and what stands in a file and is not the default."""
    more = (n for n in flags.given if flags.files and _differs(flags, n))
    return [*dict.fromkeys([*sorted(flags.typed), *more])]


def _differs(flags, name: str) -> bool:
    group = getattr(flags, _owner(flags, name))
    return getattr(group, name) != getattr(type(group), name)


def _owner(flags, name: str) -> str:
    """The group that a flag is of: the first that has it, as in --help."""
    groups = ((t, g) for t, g in vars(flags).items() if dataclasses.is_dataclass(g))
    return next((title for title, group in groups if hasattr(group, name)), "")
