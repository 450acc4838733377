"""Angles of a run by layer and epoch: as they are stored, and checked when they are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgepep.epoch import Epoch

Series = dict[str, list[float | None]]
"""By layer, by epoch, in degrees; None where there was nothing to measure."""
KINDS = {"update": "update to the exact gradient", "feedback": "feedback to the weights"}
"""What is measured, in the order of `Epoch.angles`, and what the angle lies between."""


def record(epochs: Sequence[Epoch]) -> dict[str, Series]:
    """What a run stores, by kind: nothing of a layer, or a kind, that was never measured."""
    layers = list(dict.fromkeys(layer for epoch in epochs for layer in epoch.angles or ()))
    found: dict[str, Series] = {}
    for i, kind in enumerate(KINDS):
        for layer in layers:
            values = [(epoch.angles or {}).get(layer, [None, None])[i] for epoch in epochs]
            if any(value is not None for value in values):
                found.setdefault(kind, {})[layer] = values
    return found


def read(stored: Any, epochs: int) -> dict[str, Series]:
    """What `record` gave, read back.

    Raises:
        ValueError, TypeError, AttributeError: if that is not what it is.

    """
    found: dict[str, Series] = {}
    for kind, series in stored.items():
        if kind not in KINDS:
            raise ValueError(f"its angles are of {kind!r}; there are: {', '.join(KINDS)}")
        for layer, values in series.items():
            known = [None if value is None else float(value) for value in values]
            if len(known) != epochs or not all(value is None or 0 <= value <= 180 for value in known):
                raise ValueError(f"its angles of layer {layer} are not {epochs} between 0 and 180 degrees")
            found.setdefault(kind, {})[layer] = known
    return found


def by_epoch(runs: Sequence[Series], layer: str) -> list[list[float]]:
    """By epoch, the angles of those runs that have one."""
    longest = max((len(run.get(layer, ())) for run in runs), default=0)
    columns = [[run[layer][epoch] for run in runs if len(run.get(layer, ())) > epoch] for epoch in range(longest)]
    return [[value for value in column if value is not None] for column in columns]
