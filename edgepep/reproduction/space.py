"""What a search may choose: ranges and choices, from words such as "training.learning_rate=0.01~1"."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from edgepep.errors import EdgepepError
from edgepep.models import Recipe
from edgepep.reproduction import grid
from edgepep.reproduction.identity import Plan, digest

_DIGITS = 4  # of a number that is drawn, so that a setting can be read, typed and found again
_FARTHEST = 2**53  # of the ends of a range from 0; whole numbers up to here are exact in 64-bit floats


class Dimension(NamedTuple):
    """One setting that is searched: a choice between words, or a range with both ends in it."""

    key: str
    word: str
    """As it was given."""
    choices: dict[str, Any]
    """Values by their words; empty for a range."""
    low: float = 0.0
    high: float = 0.0
    whole: bool = False

    @property
    def by_factors(self) -> bool:
        """Whether a range is drawn evenly in its logarithm: of positive numbers, over a factor of 10 or more."""
        return not self.whole and self.low > 0 and self.high >= 10 * self.low

    def value(self, drawn: Any) -> Any:
        """The setting's value, of a word or number that was drawn."""
        if self.choices:
            return self.choices[drawn]
        return int(drawn) if self.whole else min(max(float(f"{drawn:.{_DIGITS}g}"), self.low), self.high)

    def said(self, drawn: Any) -> str:
        """The value as a word on the command line."""
        return str(drawn) if self.choices else repr(self.value(drawn))

    def ends(self) -> list[Any]:
        """What can be drawn: every choice, or both ends of a range."""
        if self.choices:
            return list(self.choices)
        return [int(self.low), int(self.high)] if self.whole else [self.low, self.high]


class Space(NamedTuple):
    """What a search may choose, what it holds fixed, and the seeds over which it takes the mean."""

    recipe: Recipe
    dimensions: list[Dimension]
    fixed: dict[str, str]
    """Words by key."""
    seeds: list[Any]
    command: str

    def plans(self, drawn: dict[str, Any]) -> list[Plan]:
        """The runs of a trial, one a seed.

        Raises:
            EdgepepError: if there can be no such run.

        """
        point = {key: grid.values(key, word)[0] for key, word in self.fixed.items()}
        point |= {one.key: one.value(drawn[one.key]) for one in self.dimensions}
        point = {key: point[key] for key in sorted(point)}  # so that files are named alike, however it was given
        return [grid.plan(self.recipe, point | {"seed": seed}, self.command) for seed in self.seeds]

    @property
    def name(self) -> str:
        """Of the search: the same for the same recipe, settings and seeds."""
        table = {k: v for k, v in self.recipe.table().items() if k not in ("name", "description", "source")}
        words = sorted([*(one.word for one in self.dimensions), *(f"{k}={v}" for k, v in self.fixed.items())])
        return f"{self.recipe.name}-{digest([table, words, sorted(self.seeds)])[:12]}"

    def points(self) -> Iterator[dict[str, Any]]:
        """Every end of every dimension, the others at their first."""
        first = {one.key: one.ends()[0] for one in self.dimensions}
        for one in self.dimensions:
            yield from (first | {one.key: end} for end in one.ends())


def space(recipe: Recipe, words: Sequence[str], command: str) -> Space:
    """Read what `edgepep sweep RECIPE --set … --search N` is to choose among, and try it.

    Raises:
        EdgepepError: if a word cannot be read, a run cannot be, nothing is left to choose, or a run would be judged by
            the test set.

    """
    dimensions, fixed, seeds = [], {}, [0]
    grid.check_once([word.partition("=")[0].strip() for word in words])
    for word in words:
        key = word.partition("=")[0].strip()
        if key == "seed":
            seeds = grid.axis(word)[1]
            continue
        one = dimension(word)
        if len(one.choices) == 1:
            fixed[key] = next(iter(one.choices))
        elif key == "dataset" or key.endswith(("held_out", "without")):
            raise EdgepepError(f"{word}: {key} says what a run is judged by; a search takes one value of it.")
        else:
            dimensions.append(one)
    found = Space(recipe, dimensions, fixed, seeds, command)
    tried = [plan for point in list(found.points())[:1] or [{}] for plan in found.plans(point)]
    alone = found._replace(seeds=seeds[:1])
    for plan in [*tried, *(plan for point in found.points() for plan in alone.plans(point))]:
        if plan.held_out and plan.held_out != tried[0].held_out:
            raise EdgepepError(
                f"{plan.rule} holds out {plan.held_out} samples, {tried[0].rule} {tried[0].held_out}; a search takes "
                "one number, to judge all trials by the same ones."
            )
        if not plan.held_out:
            raise EdgepepError(
                f"a search must not choose by the test set, and {plan.label} holds no training samples out to choose "
                "by: give --set training.held_out=N, or held_out = N in the recipe's [training]."
            )
    _check_each_counts(alone)
    if not dimensions:
        raise EdgepepError("there is nothing to search; give a range or choices, such as --set rule=pepita,dfa.")
    return found


def _check_each_counts(found: Space) -> None:
    """Raise EdgepepError if one of the dimensions changes nothing under any rule: rules may have own values."""
    first = next(found.points(), {})
    rules = next((one.ends() for one in found.dimensions if one.key == "rule"), [None])
    for one in (one for one in found.dimensions if one.key != "rule"):
        ends = (one.ends()[0], one.ends()[-1])
        for rule in rules:
            low, high = (found.plans(first | {"rule": rule, one.key: end})[0].identity for end in ends)
            if low != high:
                break
        else:
            rule = found.plans(first)[0].rule
            raise EdgepepError(f"{one.key} changes nothing; perhaps the recipe's [rules.{rule}] has its own value.")


def dimension(word: str) -> Dimension:
    """Read "key=low~high" (numbers), "key=low..high" (whole numbers), or "key=value,value".

    Raises:
        EdgepepError: if it is none of these.

    """
    key, given = grid.key_and_values(word)
    parts = list(grid.parts(given))
    if len(parts) == 1 and "~" in given:
        return Dimension(key, f"{key}={given}", {}, *_ends(key, given, "~", float))
    if len(parts) == 1 and ".." in given:
        return Dimension(key, f"{key}={given}", {}, *_ends(key, given, "..", int), whole=True)
    choices = [(part if ".." not in part else str(value), value) for part in parts for value in grid.values(key, part)]
    grid.check_different(key, [value for _, value in choices])
    return Dimension(key, f"{key}={given}", dict(choices))


def _ends(key: str, given: str, between: str, number: type[int] | type[float]) -> tuple[float, float]:
    first, _, last = given.partition(between)
    try:
        low, high = number(first), number(last)
    except ValueError:
        example = "two numbers, such as 0.01~1" if number is float else "two whole numbers, such as 1..9"
        raise EdgepepError(f"{key}: {given!r} is no range; write {example}.") from None
    if not -_FARTHEST < low < high < _FARTHEST:
        raise EdgepepError(f"{key}: {given!r} is no range; it goes up, from one number to another.")
    return low, high
