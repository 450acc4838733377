"""What the results of a set are set against: a number that each of its cells has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from edgepep.models import Recipe

Name = Literal["time steps", "weight bits", "hidden layers", "hidden width", "modulation strength"]


class Axis(NamedTuple):
    """A number that may differ between cells."""

    kind: str
    """What its figure is called, in the name of a file."""
    unit: str
    """What follows the number at the head of a column, if it needs any."""
    at: Callable[[Recipe, Sequence[str]], float | None]
    """The number of a recipe under some rules, if it has one."""

    def column(self, number: float) -> str:
        """Head of a column: "25 steps", "1 hidden layer", "0.03"."""
        return f"{number:g} {self.unit.removesuffix('s') if number == 1 else self.unit}".strip()


def _steps(recipe: Recipe, rules: Sequence[str]) -> int | None:
    return recipe.time.steps if recipe.time else None


def _bits(recipe: Recipe, rules: Sequence[str]) -> int:
    """Of the weights; 32 for floats."""
    return recipe.precision.weight_bits if recipe.precision else 32


def _hidden(recipe: Recipe) -> Sequence[int | str]:
    """Features of the layers that have weights, the last left out."""
    return tuple(layer.features for layer in recipe.network.layers if layer.synapses != "none")[:-1]


def _depth(recipe: Recipe, rules: Sequence[str]) -> int:
    return len(_hidden(recipe))


def _width(recipe: Recipe, rules: Sequence[str]) -> int | None:
    """The one that all hidden layers have."""
    found = set(_hidden(recipe))
    width = found.pop() if len(found) == 1 else None
    return width if isinstance(width, int) else None


def _strength(recipe: Recipe, rules: Sequence[str]) -> float | None:
    """|F e| / |x| that the rules are to reach, where they name one and the same."""
    found = {float(recipe.options(rule).get("strength", 0.0)) for rule in rules} - {0.0}
    return found.pop() if len(found) == 1 else None


AXES: dict[Name, Axis] = {
    "time steps": Axis("steps", "steps", _steps),
    "weight bits": Axis("bits", "bits", _bits),
    "hidden layers": Axis("layers", "hidden layers", _depth),
    "hidden width": Axis("width", "wide", _width),
    "modulation strength": Axis("strength", "", _strength),
}
