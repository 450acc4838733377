"""Recipes: one TOML file says a network, its data, and how each rule trains it."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field, ValidationError

from edgepep import datasets, plugins, toml_files
from edgepep.errors import EdgepepError, RecipeError, UnknownName
from edgepep.folders import MODELS
from edgepep.outside import is_outside, refuse_unnamed
from edgepep.tables import (
    HeadTable,
    NetworkTable,
    QuantizedTable,
    Reported,
    SpikingTable,
    Table,
    TrainingTable,
    explained,
)

if TYPE_CHECKING:
    from edgepep.network import Network
    from edgepep.rule import Rule


class Recipe(Table):
    """Network, data, training and rules; precision and time are transformations of it."""

    name: str
    description: str
    source: str
    dataset: str
    rule: str = "pepita"
    network: NetworkTable
    training: TrainingTable = TrainingTable()
    precision: QuantizedTable | None = Field(None, alias="quantized")
    time: SpikingTable | None = Field(None, alias="spiking")
    head: HeadTable | None = None
    rules: dict[str, dict[str, Any]] = Field(default_factory=dict)

    def table(self) -> dict[str, Any]:
        """Return the recipe as the table that its TOML file holds, nothing left to a base."""
        return self.model_dump(exclude_none=True, by_alias=True)

    def but(self, **changes: Any) -> Recipe:
        """Return the same recipe with some keys or tables changed; a table's keys are merged.

        A head given here may be a rule outside edgepep, "package.module:Name"; one that a file gives may not.

        Raises:
            RecipeError: if what comes out is not a recipe.

        """
        table = self.table()
        others = set(changes) - {"name", "description", "source", "rule", "training", "rules"}
        if others or any(changes.get("training", {}).get(key) for key in ("without", "held_out")):
            table = _without_reported(table)  # the figures are of another network, or other data
        merged = _merged(table, changes)
        head = merged.get("head")
        return from_table(merged, self.name, [str(head.get("rule"))] if isinstance(head, dict) else ())

    def quantized(self, bits: int = 8, **others: int | str) -> Recipe:
        """Return the same recipe with weights and activations of some bits."""
        return self.but(quantized={"weight_bits": bits, "activation_bits": bits, **others})

    def spiking(self, steps: int = 25, **others: float) -> Recipe:
        """Return the same recipe with spiking neurons over some time steps."""
        return self.but(spiking={"steps": steps, **others})

    def build(self, seed: int = 0, device: str = "cpu") -> Network:
        """Make the network, its initial weights determined by the seed."""
        from edgepep.build import build

        return build(self, seed, device)

    def make_rule(self, network: Network, rule: str | None = None, seed: int = 0) -> Rule:
        """Make a rule (else the recipe's own) for a network, with the recipe's options and a seed for its feedback."""
        from edgepep.build import make_rule

        return make_rule(self, network, rule or self.rule, seed)

    def under(self, rule: str) -> Recipe:
        """Return the recipe with what the rule's own table changes in the network, such as the neurons."""
        own = self.rules.get(rule, {}).get("network")
        return self if own is None else self.model_copy(update={"network": self.but(network=own).network})

    def settings(self, rule: str) -> TrainingTable:
        """Training settings of a rule: the recipe's, with what the rule's own table changes."""
        own = self.rules.get(rule, {}).get("training", {})
        return self.but(training=own).training

    def options(self, rule: str) -> dict[str, Any]:
        """Keyword arguments of a rule, from the recipe's table for it."""
        return {k: v for k, v in self.rules.get(rule, {}).items() if k not in ("training", "network", "reported")}

    def reported(self, rule: str) -> Reported | None:
        """Published figure for a rule, if the recipe has one."""
        table = self.rules.get(rule, {}).get("reported")
        return None if table is None else Reported.model_validate(table)


def names() -> list[str]:
    """Names of the recipes that come with edgepep."""
    return plugins.in_folder(MODELS, ".toml")


def load(name: str | Path) -> Recipe:
    """Load a recipe by its name, or from a path that ends in .toml.

    Raises:
        UnknownName: if there is no such recipe.
        RecipeError: if the file is not a recipe; the message names the file, the key and what is allowed.

    """
    path = Path(name) if str(name).endswith(".toml") else MODELS / f"{plugins.check('recipe', str(name), names())}.toml"
    return from_table(_read(path, []) | {"name": path.stem}, str(path))


def _read(path: Path, above: list[Path]) -> dict[str, Any]:
    """Read one file over its base."""
    if path in above or len(above) > 8:
        raise RecipeError(f"{path}: base leads back to itself.")
    try:
        table = toml_files.read(path)
    except EdgepepError as error:
        raise RecipeError(str(error)) from error
    base = table.pop("base", None)
    if base is None:
        return table
    if not isinstance(base, str) or not re.fullmatch(r"\w[\w.-]*", base):
        raise RecipeError(f"{path}: base is {base!r}; it must be the name of a recipe, beside this one or edgepep's.")
    beside = path.parent / f"{base}.toml"
    below = beside if beside.exists() else MODELS / f"{plugins.check('recipe', base, names())}.toml"
    return _merged(_without_reported(_read(below, [*above, path])), table)


def _without_reported(table: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe's table without published figures: they hold for that recipe alone, not for what builds on it."""
    rules = {rule: {k: v for k, v in own.items() if k != "reported"} for rule, own in table.get("rules", {}).items()}
    return table | {"rules": rules}


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Above laid over below, table by table; anything but a table is replaced."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def from_table(table: dict[str, Any], file: str, named: Collection[str] = ()) -> Recipe:
    """Make a recipe from a table; an error names the file, the key, the value and what is allowed.

    Nothing is imported. Options of a rule outside edgepep are looked at when that rule is made.

    Args:
        table: of the recipe.
        file: where it is from.
        named: rules outside edgepep that the user has named, and which may be the head's.

    """
    try:
        recipe = Recipe.model_validate(table)
    except ValidationError as error:
        raise explained(error, Recipe, file, ()) from error
    try:
        _check_rules(recipe, file, named)
        plugins.check("data set", recipe.dataset, datasets.names())
    except UnknownName as error:
        raise RecipeError(f"{file}: {error}") from error
    for rule, options in recipe.rules.items():
        for key, model in (("training", TrainingTable), ("reported", Reported)):
            if key in options:
                _validate_part(model, options[key], ("rules", rule, key), file)
        if not isinstance(options.get("network", {}), dict):
            raise RecipeError(f"{file}: rules.{rule}.network: it is {options['network']!r}; it must be a table.")
        if "network" in options:
            merged = _merged(recipe.network.model_dump(), options["network"])
            _validate_part(NetworkTable, merged, ("rules", rule, "network"), file)
    return recipe


def _check_rules(recipe: Recipe, file: str, named: Collection[str]) -> None:
    """Raise RecipeError for a rule that there is not, or that a file may not have imported."""
    from edgepep import rules

    refuse_unnamed(file, recipe.rule, (), RecipeError)
    if recipe.head:
        refuse_unnamed(file, recipe.head.rule, named, RecipeError, "--head")
    for rule in (recipe.rule, *recipe.rules, *([recipe.head.rule] if recipe.head else [])):
        if not is_outside(rule):
            plugins.check("rule", rule, plugins.in_package(rules))


def _validate_part(model: type[BaseModel], value: Any, place: tuple[str, ...], file: str) -> None:
    try:
        model.model_validate(value)
    except ValidationError as error:
        raise explained(error, model, file, place) from error
