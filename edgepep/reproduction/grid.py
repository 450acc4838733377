"""A grid of runs from words such as "rule=pepita,backprop" and "seed=0..9": every combination is one run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from edgepep import keys, plain, plugins, rules
from edgepep.build import rule_class
from edgepep.errors import EdgepepError
from edgepep.models import Recipe
from edgepep.reproduction.identity import Identity, Plan, setting
from edgepep.toml_files import nested, value_of

MOST = 100_000
"""Runs in a grid."""
Axis = tuple[str, list[Any]]


def axis(word: str) -> Axis:
    """Read one axis, "key=value,value" or "key=first..last".

    Values are numbers, true, false, or words; a key is `rule`, `seed`, or the place of a setting in a recipe, such as
    training.learning_rate or rules.pepita.strength.

    Raises:
        EdgepepError: if it is neither, or a value stands there twice.

    """
    key, given = key_and_values(word)
    found = [value for part in parts(given) for value in values(key, part)]
    check_different(key, found)
    return key, found


def key_and_values(word: str) -> tuple[str, str]:
    """What stands on both sides of "=".

    Raises:
        EdgepepError: if nothing stands there.

    """
    key, equals, given = (part.strip() for part in word.partition("="))
    if not equals or not key or not given:
        raise EdgepepError(f"{word!r} is no axis of a grid; write key=value,value or key=0..9.")
    return key, given


def check_different(key: str, found: Sequence[Any]) -> None:
    """Raise EdgepepError if a value stands there twice."""
    for value in found:
        if found.count(value) > 1:
            raise EdgepepError(f"{key}: {value!r} stands there twice.")


def check_once(keys: Sequence[str]) -> None:
    """Raise EdgepepError if an axis stands there twice."""
    for key in keys:
        if keys.count(key) > 1:
            raise EdgepepError(f"{key} is set twice; give all its values at once: {key}=value,value.")


def parts(given: str) -> Iterator[str]:
    """What commas separate, but not those within brackets."""
    depth, part = 0, ""
    for character in given:
        depth += (character in "[{") - (character in "]}")
        if character == "," and depth == 0:
            yield part.strip()
            part = ""
        else:
            part += character
    yield part.strip()


def values(key: str, part: str) -> list[Any]:
    """What one part between commas stands for: a value, or every whole number of a range.

    Raises:
        EdgepepError: if it is a range that cannot be, or one that only a search can take.

    """
    first, dots, last = part.partition("..")
    if not dots:
        if "~" in part and all(isinstance(value_of(end), (int, float)) for end in part.split("~")):
            raise EdgepepError(f"{key}: {part!r} is a range to search (--search); a list takes values: {key}=0.1,0.2.")
        return [value_of(part)]
    try:
        low, high = int(first), int(last)
    except ValueError:
        raise EdgepepError(f"{key}: {part!r} is no range; write whole numbers, such as 0..9.") from None
    if not low <= high < low + MOST:
        raise EdgepepError(f"{key}: {part!r} is no range; it goes up, by less than {MOST}.")
    return list(range(low, high + 1))


def plans(recipe: Recipe, axes: Sequence[Axis], command: str) -> list[Plan]:
    """Every combination of the axes' values as a run, the first axis slowest; what comes out the same is done once.

    Raises:
        EdgepepError: if an axis stands there twice, a value cannot be, or there are too many runs.

    """
    places = [key for key, _ in axes]
    check_once(places)
    count = 1
    for _, found in axes:
        count *= len(found)
    if count > MOST:
        raise EdgepepError(f"the grid has {count} runs; it may have {MOST}.")
    runs: dict[Identity, Plan] = {}
    for point in itertools.product(*(found for _, found in axes)):
        run = plan(recipe, dict(zip(places, point, strict=True)), command)
        runs.setdefault(run.identity, run)
    return list(runs.values())


def plan(recipe: Recipe, point: dict[str, Any], command: str) -> Plan:
    """One run, with the rule, the seed and the settings that a point of the grid has.

    Raises:
        EdgepepError: if there can be no such run.

    """
    point = dict(point)
    rule, seed = point.pop("rule", recipe.rule), point.pop("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise EdgepepError(f"seed is {seed!r}; it must be a whole number.")
    if not isinstance(rule, str):
        raise EdgepepError(f"rule is {rule!r}; it must be a name.")
    plugins.check("rule", rule, plugins.in_package(rules)) if ":" not in rule else rule_class(rule)
    changes = nested(point)
    _check_finite(recipe, point)
    keys.check(recipe, point, rule)
    chosen = recipe.but(**changes) if changes else recipe
    epochs = chosen.settings(rule).epochs
    return Plan(chosen, changes, rule, seed, epochs, Identity(setting(chosen, rule, epochs), seed), command)


def _check_finite(recipe: Recipe, point: dict[str, Any]) -> None:
    """Raise EdgepepError for a number that no stored run can have: JSON has neither nan nor inf."""
    for key, value in point.items():
        if plain.not_finite(value, key):
            raise EdgepepError(f"{key} is {value}; it must be finite, neither nan nor inf.")
    place = plain.not_finite(recipe.table())
    if place:
        raise EdgepepError(f"{recipe.name}: {place} is not finite; a run that is stored has finite numbers only.")


def coordinates(plan: Plan) -> dict[str, Any]:
    """What tells a run from others of its grid: rule, seed, and changed settings by their place."""
    return {"rule": plan.rule, "seed": plan.seed, **_flat(plan.changes, "")}


def _flat(table: dict[str, Any], place: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat.update(_flat(value, f"{place}{key}.") if isinstance(value, dict) else {place + key: value})
    return flat
