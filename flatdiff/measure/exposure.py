"""Exposure bias of checkpoints: the network along the sampling chain, against real images."""

import math

from .frame import Line, Measure

NORM = "‖predicted noise‖₂; grey: the noise's"


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

    @staticmethod
    def lines(model: dict) -> list[Line]:
        """Both norms and their gap along the chain; as `shown`, with the record's timesteps too."""
        x, noise = model["timesteps"], model["noise_norm"]
        titles = {"training": "on real images (training)", "sampling": "along the sampling chain"}
        titles["gap"] = "gap: sampling less training"
        return [
            Line(
                title,
                x,
                model[name]["value"],
                "timestep t (0: least noise)",
                "difference of ‖predicted noise‖₂" if name == "gap" else NORM,
                level=0 if name == "gap" else noise,
            )
            for name, title in titles.items()
        ]
