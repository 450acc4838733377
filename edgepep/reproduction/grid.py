"""A grid of runs from words such as "rule=pepita,backprop" and "seed=0..9": every combination is one run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from edgepep import plugins, rules
from edgepep.build import rule_class
from edgepep.errors import EdgepepError
from edgepep.models import Recipe
from edgepep.reproduction.identity import Identity, Plan, setting
from edgepep.toml_files import value_of

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
    key, equals, given = word.partition("=")
    key = key.strip()
    if not equals or not key or not given.strip():
        raise EdgepepError(f"{word!r} is no axis of a grid; write key=value,value or key=0..9.")
    values = [value for part in _parts(given) for value in _values(key, part)]
    for value in values:
        if values.count(value) > 1:
            raise EdgepepError(f"{key}: {value!r} stands there twice.")
    return key, values


def _parts(given: str) -> Iterator[str]:
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


def _values(key: str, part: str) -> list[Any]:
    first, dots, last = part.partition("..")
    if not dots:
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
    keys = [key for key, _ in axes]
    for key in keys:
        if keys.count(key) > 1:
            raise EdgepepError(f"{key} is set twice; give all its values at once: {key}=value,value.")
    count = 1
    for _, values in axes:
        count *= len(values)
    if count > MOST:
        raise EdgepepError(f"the grid has {count} runs; it may have {MOST}.")
    found: dict[Identity, Plan] = {}
    for point in itertools.product(*(values for _, values in axes)):
        plan = _plan(recipe, dict(zip(keys, point, strict=True)), command)
        found.setdefault(plan.identity, plan)
    return list(found.values())


def _plan(recipe: Recipe, point: dict[str, Any], command: str) -> Plan:
    rule, seed = point.pop("rule", recipe.rule), point.pop("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise EdgepepError(f"seed is {seed!r}; it must be a whole number.")
    if not isinstance(rule, str):
        raise EdgepepError(f"rule is {rule!r}; it must be a name.")
    plugins.check("rule", rule, plugins.in_package(rules)) if ":" not in rule else rule_class(rule)
    changes: dict[str, Any] = {}
    for key, value in point.items():
        *path, last = key.split(".")
        table = changes
        for part in path:
            table = table.setdefault(part, {})
        table[last] = value
    chosen = recipe.but(**changes) if changes else recipe
    epochs = chosen.settings(rule).epochs
    return Plan(chosen, changes, rule, seed, epochs, Identity(setting(chosen, rule, epochs), seed), command)


def coordinates(plan: Plan) -> dict[str, Any]:
    """What tells a run from others of its grid: rule, seed, and changed settings by their place."""
    return {"rule": plan.rule, "seed": plan.seed, **_flat(plan.changes, "")}


def _flat(table: dict[str, Any], place: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat.update(_flat(value, f"{place}{key}.") if isinstance(value, dict) else {place + key: value})
    return flat
