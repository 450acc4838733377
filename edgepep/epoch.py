"""What training says of itself: in the middle of an epoch, and after it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple


class Progress(NamedTuple):
    """How training stands in the middle of an epoch."""

    epoch: int
    step: int
    steps: int
    loss: float
    accuracy: float


class Epoch(NamedTuple):
    """What one epoch gave: mean training loss, accuracies in percent, seconds of training, angles if asked for."""

    epoch: int
    loss: float
    train_accuracy: float
    test_accuracy: float
    """Not a number where training has no test set."""
    seconds: float
    held_out_accuracy: float | None = None
    """Of samples taken from the training set, where a run is judged by them; it has no test accuracy then."""
    angles: dict[str, list[float | None]] | None = None
    """By layer, in degrees, where they are measured: as `edgepep.angles.Angles` gives them."""

    @classmethod
    def read(cls, table: dict[str, Any]) -> Epoch:
        """An epoch from the table that `table` gives."""
        return cls(**({"test_accuracy": math.nan} | table))

    @property
    def accuracy(self) -> float:
        """What the run is judged by: the held-out accuracy, or else the test accuracy."""
        return self.test_accuracy if self.held_out_accuracy is None else self.held_out_accuracy

    @property
    def judged_on(self) -> str:
        """In words: "held-out" or "test"."""
        return judged_on(self.held_out_accuracy is not None)

    def warning(self, classes: int, shown: int) -> str:
        """What to say of a training that has come to nothing, or nothing; the first epoch is too early to tell.

        Args:
            classes: of the output.
            shown: how many of them training shows.

        """
        chance, constant = 100 / shown, math.log(classes)
        noise = min(0.2 * chance, 2.0)
        if self.epoch < 2 or self.train_accuracy > chance + noise or self.accuracy > chance + noise:
            return ""
        if abs(self.loss - constant) < 5e-4:
            same = f"the network answers the same whatever it is shown (loss log {classes} = {constant:.4f})"
            return f"{same}: the learning rate may be too high."
        found = f"train {self.train_accuracy:.2f} % is about chance ({chance:.3g} %)"
        return f"{found}: the learning rate may be too high, or far too low."

    def table(self) -> dict[str, Any]:
        """By name, without the accuracy that there is none of; the one there is stands where the other would."""
        left_out = "held_out_accuracy" if self.held_out_accuracy is None else "test_accuracy"
        order = ("epoch", "loss", "train_accuracy", "test_accuracy", "held_out_accuracy", "seconds")
        table = {name: getattr(self, name) for name in order if name != left_out}
        return table if self.angles is None else table | {"angles": self.angles}

    def row(self) -> list[Any]:
        """As `Epoch(*row)` takes it, without what it does not have at the end."""
        row = list(self)
        while row[-1] is None:
            row.pop()
        return row


def judged_on(held_out: bool) -> str:
    """What an accuracy is of, in words: "held-out" or "test"."""
    return "held-out" if held_out else "test"


def accuracy_key(held_out: bool) -> str:
    """What an accuracy is called in files: "held_out_accuracy" or "test_accuracy"."""
    return f"{judged_on(held_out).replace('-', '_')}_accuracy"
