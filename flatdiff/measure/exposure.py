"""Exposure bias of checkpoints: the network along the sampling chain, against real images."""

import math

from .frame import Measure


class EXPOSURE(Measure):
    @staticmethod
    def shown(model: dict) -> dict[str, float | None]:
        """noise_norm; and of both norms, training and sampling, and of the size of their gap:
        NAME_start, at the step nearest t = 0, and NAME_mean, over the other steps.

        :param model: an item of the record's "models", with the record's noise_norm beside.
        """
        found = {"noise_norm": model["noise_norm"]}
        for name in ("training", "sampling", "gap"):
            start, *rest = (math.nan if v is None else abs(v) for v in model[name]["value"])
            found[f"{name}_start"] = start
            found[f"{name}_mean"] = math.fsum(rest) / len(rest) if rest else None
        return found
