"""What makes two runs the same run: everything that determines its outcome, and nothing else."""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple

from edgepep.models import Recipe

_LONGEST = 120  # characters for a recipe and its changes in the name of a file


class Identity(NamedTuple):
    """A run's own: the digest of all but its seed, and the seed."""

    setting: str
    seed: int

    @property
    def short(self) -> str:
        """Eight characters for the name of a file."""
        return digest([self.setting, self.seed])[:8]


class Plan(NamedTuple):
    """A run that is to be there."""

    recipe: Recipe
    changes: dict[str, Any]
    rule: str
    seed: int
    epochs: int
    identity: Identity
    """What it is stored by."""
    command: str
    """That asks for it, as it is stored beside the result."""
    angles: bool = False
    """Whether to measure them too; the run is the same run without."""

    @property
    def held_out(self) -> int:
        """Training samples that judge it in place of the test set."""
        return self.recipe.settings(self.rule).held_out or 0

    @property
    def label(self) -> str:
        """Name of its file, without the suffix: recipe, changes and the rule's options among them, rule and seed."""
        own = self.changes.get("rules", {}).get(self.rule, {})
        options = words({key: value for key, value in own.items() if not isinstance(value, dict)})
        what = "-".join([self.recipe.name, *words(self.changes), *options]).replace(" ", ",")
        what = what if len(what) <= _LONGEST else f"{what[:_LONGEST]}-{self.identity.setting[:8]}"
        return "-".join([what, self.rule, str(self.seed)])


def words(changes: dict[str, Any], between: str = "") -> list[str]:
    """Changes of a recipe in short, such as steps10; tables of rules are not named, layers by their features."""
    found = []
    for key, value in changes.items():
        if isinstance(value, dict):
            found += words(value, between) if key != "rules" else []
        else:
            if isinstance(value, list):
                value = " ".join(str(v.get("features", "")) if isinstance(v, dict) else str(v) for v in value)
            found.append("".join(c for c in f"{key}{between}{value}" if c.isalnum() or c in "._- ="))
    return found


def setting(recipe: Recipe, rule: str, epochs: int) -> str:
    """Digest of all that determines a run but its seed.

    What a recipe says of itself (name, description, source, published figures) and its tables for other rules do not
    count, nor does where a value stands: a rate in the rule's own table is the same as one in the recipe's.
    """
    training = recipe.settings(rule).model_dump(exclude_none=True)
    del training["epochs"]  # a run's own may differ
    table: dict[str, Any] = {
        "dataset": recipe.dataset,
        "network": _network(recipe.under(rule)),
        "training": training,
        "quantized": recipe.precision and recipe.precision.model_dump(exclude_none=True),
        "spiking": recipe.time and recipe.time.model_dump(exclude_none=True),
        "rule": rule,
        "options": recipe.options(rule),
        "epochs": epochs,
    }
    if recipe.head:
        table["head"] = recipe.head.model_dump() | {"options": recipe.options(recipe.head.rule)}
    elif rule == "last_layer" and table["options"].get("layers", 1) == 1:  # the same rule, weight for weight
        table |= {"rule": "frozen_hidden", "options": {}}
    return digest(table)


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _network(recipe: Recipe) -> dict[str, Any]:
    """The network's table with every layer's neurons named, and none at the output."""
    table = recipe.network.model_dump(exclude_none=True)
    everywhere = table.pop("neurons")
    *hidden, output = table["layers"]
    for layer in hidden:
        layer.setdefault("neurons", everywhere)
    output["neurons"] = "identity"
    return table
