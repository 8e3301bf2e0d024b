"""A training run on disk: what is written at a step, and how a run goes on from it.

model, ema_*, swa_ and opt hold what their names say; state holds the rest, and the hashes of the
others (see `store.steps`). The random state and the position in the
data are functions of seed and step, and need no bytes.
"""

import errno
import functools
import os

import torch

from ..store import checkpoint, disk, finite, restore, snapshots, steps
from ..weights.averaging import EMA
from ..world import dist_util, logger, stopping
from . import climbing
from .averages import of_snapshots

DIVERGED = (
    "Training has diverged: go on from an earlier checkpoint with a lower --lr or --rho, or with "
    "--dtype fp32"
)


REFUSALS = {  # of a disk
    errno.ENOSPC: "no space in {}",
    errno.EDQUOT: "no space in {}: the quota is used up",
    errno.EROFS: "{} is read-only by now",
    errno.EFBIG: "a file in {} would be larger than files may be (ulimit -f)",
    errno.EIO: "the disk of {} fails",
}


def tells_what_is_whole(where):
    """A decorator of a method of the loop: where the disk takes no more of it, it says what is
    whole in the folder that `where` returns."""

    def decorate(train):
        @functools.wraps(train)
        def method(loop):
            try:
                return train(loop)
            except OSError as error:
                if told := _told(error, str(where()), loop.step):
                    raise OSError(error.errno, told) from error
                raise

        return method

    return decorate


def _told(error, folder, step):
    """What the error is and what is whole, if it is the folder's; else ""."""
    gone = not checkpoint.exists(folder)
    what = "the folder {} is gone" if gone else REFUSALS.get(error.errno)
    if not what or not str(error.filename or folder).startswith(folder):
        return ""
    whole = checkpoint.complete_steps(folder)
    kept = f"step {whole[-1]} is whole" if whole else "no step was saved in it"
    text = f"{what.format(folder)} ({error.filename or 'some file'}, at step {step}); {kept}"
    return f"{text}. Once that is mended, --resume auto goes on"


def save(loop, folder):
    """Write all files of the loop's step into the folder."""
    files = {checkpoint.model_name(loop.step): _named(loop, loop.weights)}
    for label, average in loop.averages.items():
        if average.started:
            files[checkpoint.average_name(label, loop.step)] = _named(loop, average.weights)
    files[checkpoint.opt_name(loop.step)] = restore.optimizer_state(loop.opt)
    rest = _rest(loop)
    every = {**files, checkpoint.state_name(loop.step): rest}
    for name, content in every.items():  # before any is written, and any older one pruned
        finite.check(content, f"{name} was not saved", DIVERGED)
    steps.write(folder, loop.step, files, rest)
    logger.log(f"saved {folder}/{checkpoint.model_name(loop.step)}")
    checkpoint.prune(folder, loop.keep_last, keep=[loop.resume_checkpoint])


def seconds_to_save(loop):
    """How long a save may take, before one was seen: its bytes at 100 MB/s."""
    copies = 3 + len(loop.averages) + len(loop.memory)  # with the optimizer's two moments
    return copies * sum(4 * w.numel() for w in loop.weights) / 1e8


def leave(loop):
    """End the program, all ranks together, where the loop was asked to and has saved."""
    if hasattr(loop.data, "close"):  # or its processes are waited for at the end of this one
        loop.data.close()
    path = checkpoint.absolute(f"{logger.get_dir()}/{checkpoint.model_name(loop.step)}")
    go_on = "the same command" + ("" if loop.resume else " with --resume auto")
    stopping.keeps(f"saved {path}; {go_on} goes on from step {loop.step}")
    raise stopping.Stopped(together=True)


def resume(loop, path, find_ema):
    """Set the loop, whose weights are loaded, to the state saved beside its model file.

    guided-diffusion's files have no state file, and a file number of 0 means weights only.
    find_ema: as `train_hooks.find_ema_checkpoint`.
    """
    loop.step = max(0, checkpoint.parse_resume_step_from_filename(path))
    if not loop.step:
        logger.log(f"the name of {path} has no step: only its weights are used, from step 0 on")
        return
    step, folder = loop.step, os.path.dirname(path)
    names = checkpoint.state_name(step), checkpoint.opt_name(step)
    state, opt = (os.path.join(folder, name) for name in names)
    rest = _checked(_load(state), state, step)
    files = {}
    for label, average in loop.averages.items():
        found = isinstance(average, EMA) and find_ema(path, step, average.rate)
        files[label] = found or os.path.join(folder, checkpoint.average_name(label, step))
    if rest and dist_util.rank() == 0:
        _look_over(rest, folder, files)
    if optimizer := _load(opt):
        with disk.reading(opt):
            restore.load_optimizer(loop.opt, optimizer, loop.model.named_parameters())
    if not rest:
        _correct_number(loop)
    for label, average in loop.averages.items():
        average.go_on(rest.get(label, {}), loop.step)
        _resume_average(loop, average, files[label])
    loop.run = rest.get("run", "")
    if loop.posthoc_ema and rest.keys() >= {*of_snapshots()}:
        loop.posthoc_run, loop.snapshots = rest.get("posthoc_run", 0), rest.get("snapshots", [])
    if loop.scale and "lg_loss_scale" in rest:
        loop.scale.lg = rest["lg_loss_scale"]
    if "schedule_sampler" in rest and hasattr(loop.schedule_sampler, "load_state_dict"):
        with disk.reading(state):
            loop.schedule_sampler.load_state_dict(rest["schedule_sampler"])
    if climbing.remembers(loop):
        loop.memory |= _memory(loop, rest.get("gradient", {}), state)
    for name in ("seed", "global_batch"):
        if rest and rest[name] != getattr(loop, name):
            logger.log(
                f"{name} was {rest[name]} and is now {getattr(loop, name)}: "
                "the run goes on with other draws than it would have had"
            )


def _look_over(rest, folder, averages):
    """ValueError where the step's files are not whole; warn of snapshots that are lost.
    `averages`: the files of those that are gone on with."""
    step = rest["step"]
    elsewhere = [
        checkpoint.average_name(label, step)
        for label, file in averages.items()
        if os.path.dirname(file) != folder
    ]
    if problem := steps.damage(folder, step, but=elsewhere):
        raise ValueError(
            f"step {step} is not whole: {problem}. Restore that file, or take an earlier step; "
            "--init_from takes a file's weights alone"
        )
    for problem in snapshots.lost(folder, rest.get("snapshots", []), rest.get("posthoc_run", 0)):
        logger.warn(f"warning: {problem}; averages made of the snapshots will be without it")


def _rest(loop):
    rest = {name: getattr(loop, name) for name in ("step", "seed", "global_batch", "run")}
    if loop.scale:
        rest["lg_loss_scale"] = loop.scale.lg
    if loop.posthoc_run:
        rest |= {"posthoc_run": loop.posthoc_run, "snapshots": loop.snapshots}
    known = {label: average.progress() for label, average in loop.averages.items()}
    rest |= {label: progress for label, progress in known.items() if progress}
    if loop.memory:
        rest["gradient"] = {name: _named(loop, held) for name, held in loop.memory.items()}
    if hasattr(loop.schedule_sampler, "state_dict"):
        rest["schedule_sampler"] = loop.schedule_sampler.state_dict()
    return rest


def _checked(rest, file, step):
    """What `_rest` gave for the step; {} where there was no file."""
    if rest is None:
        return {}
    with disk.reading(file):
        counts = [rest["step"], rest["seed"], rest["global_batch"], rest.get("posthoc_run", 0)]
        counts += rest.get("snapshots", [])
        counts += [rest["swa"][name] for name in ("count", "start") if "swa" in rest]
        for label in (name for name in rest if name.startswith("average_")):
            counts += rest[label].values()
        if not all(type(count) is int and count >= 0 for count in counts):
            raise ValueError(f"counts are {counts}")
        if not isinstance(rest.get("run", ""), str):
            raise ValueError(f"run is {rest['run']!r:.80}")
        if rest["step"] != step:
            raise ValueError(f"it is the state of step {rest['step']}, and not of {step}")
        if not isinstance(rest.get("lg_loss_scale", 0), int | float):
            raise ValueError(f"lg_loss_scale is {rest['lg_loss_scale']!r}")
    return rest


def _resume_average(loop, average, file):
    """Fill the average from its file; without one it stays as it began."""
    held = _load(file) if average.started else None
    if held is not None:
        with disk.reading(file):
            found = restore.fitting(_named(loop, average.weights), held, file)
        for weight, name in zip(average.weights, loop.names):
            weight.copy_(found[name])


def _memory(loop, saved, file):
    """A gradient's memory, as `_rest` gave it, in the layout of the weights."""
    memory = {}
    for name, held in saved.items():
        with disk.reading(file):
            found = restore.fitting(_named(loop, loop.weights), held, file)
        tensors = [torch.empty_like(w, requires_grad=False) for w in loop.weights]
        torch._foreach_copy_(tensors, [found[name] for name in loop.names])
        memory[name] = tensors
    return memory


def _correct_number(loop):
    """guided-diffusion's periodic file N holds N + 1 updates; its optimizer knows."""
    done = {int(state["step"]) for state in loop.opt.state.values() if "step" in state}
    if done == {loop.step + 1}:
        loop.step += 1
        logger.log(f"{loop.resume_checkpoint} holds {loop.step} updates: going on from there")


def _named(loop, weights):
    return dict(zip(loop.names, weights))


def _load(file):
    if checkpoint.exists(file):
        return dist_util.load_state_dict(file)
    logger.log(f"{file} is missing: what it would hold starts anew")
    return None
