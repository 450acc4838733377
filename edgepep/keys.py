"""Places of settings in a recipe, such as training.learning_rate, and which are meant by a part of one."""

from __future__ import annotations

from collections.abc import Iterable

from edgepep.build import rule_class, rule_options
from edgepep.errors import RecipeError
from edgepep.models import Recipe
from edgepep.tables import HeadTable, NetworkTable, QuantizedTable, SpikingTable, Table, TrainingTable, keys

_TABLES: dict[str, type[Table]] = {
    "training": TrainingTable,
    "network": NetworkTable,
    "quantized": QuantizedTable,
    "spiking": SpikingTable,
    "head": HeadTable,
}


def check(recipe: Recipe, places: Iterable[str], rule: str) -> None:
    """Look for places that are the end of another one, such as learning_rate.

    Args:
        recipe: in which something is to be set.
        places: where.
        rule: that is to learn by it.

    Raises:
        RecipeError: if there is one; it names those that may have been meant.

    """
    allowed = keys(Recipe)
    for place in places:
        if place.partition(".")[0] in allowed:
            continue
        meant = [repr(known) for known in _known(recipe, rule) if known.endswith(f".{place}")]
        if meant:
            raise RecipeError(
                f"{recipe.name}: {place}: there is no such key; did you mean {' or '.join(meant)}? "
                f"Allowed: {', '.join(sorted(allowed))}."
            )


def _known(recipe: Recipe, rule: str) -> list[str]:
    """Places that count under a rule: where its own table has a value, the recipe's does not."""
    own = recipe.rules.get(rule, {}).get("training", {})
    places = [f"{table}.{key}" for table, model in _TABLES.items() for key in keys(model)]
    places = [f"rules.{rule}.{place}" if place in {f"training.{key}" for key in own} else place for place in places]
    rules = [rule, recipe.head.rule] if recipe.head else [rule]
    return places + [f"rules.{name}.{key}" for name in rules for key in rule_options(rule_class(name))]
