"""The frame of all measures: what is to be done, what was found, and how it is told.

A measure is a subclass of `Measure` and a line of the registry (`flags.choices`). It knows no flags,
files or ranks: the runner (`run`) gives it a network under study and keeps what it finds.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

Task = Callable[[], Any]


class Measure:
    """One kind of measurement; an instance is one study of it, over one checkpoint or several.

    It is made of keyword arguments that have defaults, its knobs: `--flatness "TOY scale=2"` gives
    them, and so does a flag of the same name where the script has one (num_draws, sigma, ...); `seed`
    is the run's. A ValueError of the constructor is shown to the user before any work.

    A subclass gives `tasks`, `result` and `rows`; all else has a default.
    """

    together = False  # whether a task needs all ranks; else they share the tasks, each doing some

    def tasks(self, subject) -> dict[str, Task]:
        """What is to be computed of a `subject.Subject`: by key, functions that give plain values.

        A result is kept on disk under its key, so that an interrupted study goes on; the key names
        what the result depends on beside the checkpoint, the images and the flags that change
        numbers: the size of the move, the number of the draw.
        """
        raise NotImplementedError

    def result(self, subject, found: list) -> dict:
        """What the results of the tasks, in their order, say of a network: plain values by name.

        It is an item of the record's "models", after name, path, sha256, num_weights, image_size,
        timesteps, t_range, batch_size, and at_w: by term of the loss, headline first, its "losses"
        [5] (over all timesteps, and each quarter of them) and their "errors".
        """
        raise NotImplementedError

    def rows(self, record: dict) -> list[dict]:
        """The csv: numbers and texts by column, of a record of "settings" and "models"."""
        raise NotImplementedError

    @staticmethod
    def shown(model: dict) -> dict[str, float | None]:
        """What a study can show: the numbers that a registered `Column.value` names.

        :param model: an item of the record's "models", as the script left it in its json.
        """
        return {}

    @staticmethod
    def lines(model: dict) -> list["Line"]:
        """What a study draws of a model, a line on each of the measure's panels; as `shown`."""
        return []


class Line(NamedTuple):
    """A curve, and how its panel looks: `scale` of both axes, and `level`, a grey line across."""

    title: str
    x: list[float]
    y: list[float]
    xlabel: str
    ylabel: str
    scale: str = "linear"
    level: float | None = None
