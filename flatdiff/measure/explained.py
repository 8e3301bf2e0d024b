"""--explain of a sampling from rounded weights: `explain.EXPLAIN` of the network at hand."""

import os

import torch

from ..models import networks
from ..store import checkpoint
from ..world import dist_util, logger
from ..world.arithmetic import arithmetic
from . import frame
from .explain import EXPLAIN
from .finished import Finished
from .found import measured

NUM_DRAWS = 8  # random directions, in mirrored pairs


def check(quant, flags) -> None:
    """Raise ValueError where flags of a QuantFlags ask for what cannot be had."""
    if quant.explain and not flags.data.data_dir:
        raise ValueError("--explain measures losses on images: give --data_dir")
    if quant.explain and (flags.run.compile or networks.dtype_of(flags) != "fp32"):
        raise ValueError("--explain differentiates twice, in fp32: leave --compile and --dtype out")
    if quant.quant_act_bins and flags.run.compile:
        raise ValueError("--quant_act_bins looks at each call's timesteps: leave --compile out")


@arithmetic(tf32=False)
@torch.enable_grad()
def write(subject, quant, calibration, folder: str) -> None:
    """Log why the loss rises with the weights' rounding, and write explained_w4.json (or so), .csv
    and .png into the folder; inputs stay as they are."""
    subject.skip = [p for p in quant.quant_skip.split(",") if p]
    subject.calibration = calibration
    text = f"{quant.quant_range} granularity={quant.quant_granularity} "
    text += f"symmetric={quant.quant_symmetric} group={quant.quant_group}"
    measure = EXPLAIN(num_draws=NUM_DRAWS, bits=str(quant.quant), quantizers=text)
    with Finished("") as finished:
        model, _ = measured(measure, subject, finished)
    record = {"models": [model]}
    record |= {"rows": measure.rows(record)}
    logger.log(measure.text(record))
    if dist_util.rank() == 0:
        inputs = f"a{quant.quant_activations}" if quant.quant_activations else ""
        stem = f"explained_w{quant.quant}{inputs}"
        path = os.path.join(folder, f"{stem}.json")
        checkpoint.save_json(frame.without_nan({"EXPLAIN": record}), path)
        for written in (path, *frame.write(measure, record, stem, folder)):
            logger.log(checkpoint.absolute(written))
