"""Sets of runs: one TOML file names recipes, rules, seeds and the published figures they answer to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, Field, ValidationError

from edgepep import models, plugins, rules, toml_files
from edgepep.errors import EdgepepError, RecipeError
from edgepep.folders import SETS
from edgepep.models import Recipe
from edgepep.outside import refuse_unnamed
from edgepep.reproduction import axes
from edgepep.reproduction.identity import Identity, Plan, setting, words
from edgepep.tables import Positive, Reported, Table, explained

T = TypeVar("T", bound=BaseModel)
Confidence = Literal["code", "stored", "recall"]
"""Read in the authors' own code; in a stored copy by others; from memory, not checked."""


class Published(Reported):
    """A published figure, and how sure we are of it."""

    confidence: Confidence = "stored"


class Point(Table):
    """A published accuracy in percent after some epochs of one run."""

    epoch: Positive
    accuracy: float


class CellTable(Table):
    """Some rules on one recipe."""

    recipe: str
    title: str | None = None
    """What to call the cell in tables; else the recipe's name and its changes."""
    line: str | None = None
    """What to call the cell where results are set against a number; else the recipe's name."""
    rules: Annotated[list[str], Field(min_length=1)]
    changes: dict[str, Any] = Field(default_factory=dict)
    """Of the recipe, as `Recipe.but` takes them."""
    published: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """By rule; else the recipe's `reported`."""
    curve: dict[str, list[dict[str, Any]]] = Field(default_factory=dict)
    """By rule, points of a published learning curve."""


class SetTable(Table):
    """A set as its file holds it."""

    title: str
    text: str
    source: str
    seeds: Positive = 3
    confidence: Confidence = "stored"
    """Of the figures that the recipes hold."""
    controls: list[str] = Field(default_factory=lambda: ["frozen_hidden"])
    slowness: bool = False
    against: axes.Name | None = None
    """What a further table and figure set the accuracy against."""
    angles: bool = False
    """Whether runs measure, after each epoch, the angles between updates and exact gradients."""
    cells: Annotated[list[dict[str, Any]], Field(min_length=1)]


class Cell(NamedTuple):
    """Some rules on one recipe, read."""

    recipe: Recipe
    own_title: str | None
    line: str
    changes: dict[str, Any]
    rules: list[str]
    settings: dict[str, str]
    """By rule, controls included: the digest of all but the seed."""
    published: dict[str, Published]
    curve: dict[str, list[Point]]

    @property
    def title(self) -> str:
        """Name of the recipe, with what is changed in it."""
        return self.own_title or ", ".join([self.recipe.name, *words(self.changes, " = ")])

    def at(self, axis: axes.Name) -> float | None:
        """Where the cell stands along an axis, if it does."""
        return axes.AXES[axis].at(self.recipe, self.rules)

    def plan(self, rule: str, seed: int, command: str = "", angles: bool = False) -> Plan:
        """One run of the cell."""
        epochs, identity = self.recipe.settings(rule).epochs, Identity(self.settings[rule], seed)
        return Plan(self.recipe, self.changes, rule, seed, epochs, identity, command, angles)


class RunSet(NamedTuple):
    """A named set of runs."""

    name: str
    about: SetTable
    cells: list[Cell]

    def plans(self, seeds: int | None = None) -> list[Plan]:
        """Every run once, all rules with one seed before the next seed.

        Raises:
            EdgepepError: if seeds is not positive.

        """
        seeds = self.about.seeds if seeds is None else seeds
        if seeds < 1:
            raise EdgepepError(f"seeds is {seeds}; it must be at least 1.")
        found: dict[Identity, Plan] = {}
        for seed in range(seeds):
            for cell in self.cells:
                for rule in cell.settings:
                    if Identity(cell.settings[rule], seed) not in found:
                        plan = cell.plan(rule, seed, f"edgepep reproduce {self.name}", self.about.angles)
                        found[plan.identity] = plan
        return list(found.values())


def names() -> list[str]:
    """Names of the sets that come with edgepep."""
    return plugins.in_folder(SETS, ".toml")


def load(name: str | Path) -> RunSet:
    """Load a set by its name, or from a path that ends in .toml.

    Raises:
        UnknownName: if there is no such set.
        RecipeError: if the file is not a set; the message names the file, the key and what is allowed.

    """
    path = Path(name) if str(name).endswith(".toml") else SETS / f"{plugins.check('set', str(name), names())}.toml"
    about = _checked(SetTable, toml_files.read(path), (), path)
    _known(about.controls, "controls", path)
    cells = [_cell(about, i, table, path) for i, table in enumerate(about.cells)]
    if about.against:
        _one_at_each_place(cells, about.against, path)
    return RunSet(path.stem, about, cells)


def _one_at_each_place(cells: list[Cell], axis: axes.Name, path: Path) -> None:
    """Raise RecipeError if two different runs would be one point of a line."""
    found: dict[tuple[str, str, float], str] = {}
    for i, cell in enumerate(cells):
        number = cell.at(axis)
        if number is None:
            continue
        for rule, digest in cell.settings.items():
            if found.setdefault((cell.line, rule, number), digest) != digest:
                there = f"{rule} is on the line {cell.line!r} at {number:g} {axis} already"
                raise RecipeError(f"{path}: cells[{i}]: {there}, with other settings; give one a `line` of its own.")


def _cell(about: SetTable, i: int, given: dict[str, Any], path: Path) -> Cell:
    place = f"cells[{i}]"
    table = _checked(CellTable, given, (place,), path)
    _known([*table.rules, *table.published, *table.curve], place, path)
    try:
        whole = models.load(table.recipe)
        recipe = whole.but(**table.changes) if table.changes else whole
        refuse_unnamed(path, recipe.head.rule if recipe.head else "", (), RecipeError)
    except EdgepepError as error:
        raise RecipeError(f"{path}: {place}: {error}") from error
    published = {}
    for rule in table.rules:
        reported = recipe.reported(rule)
        if rule in table.published:
            published[rule] = _checked(Published, table.published[rule], (place, "published", rule), path)
        elif reported and _whole(recipe, rule) == _whole(whole, rule):  # it answers to no other run than the recipe's
            published[rule] = Published(**reported.model_dump(), confidence=about.confidence)
    curve = {
        rule: [_checked(Point, point, (place, "curve", rule), path) for point in points]
        for rule, points in table.curve.items()
    }
    trained = dict.fromkeys([*table.rules, *about.controls])
    settings = {rule: _whole(recipe, rule) for rule in trained}
    for rule in trained:
        if held_out := recipe.settings(rule).held_out:
            raise RecipeError(f"{path}: {place}: {rule} holds out {held_out} samples; a set is judged on the test set.")
    return Cell(recipe, table.title, table.line or recipe.name, table.changes, table.rules, settings, published, curve)


def _whole(recipe: Recipe, rule: str) -> str:
    """Digest of a run to the recipe's last epoch."""
    return setting(recipe, rule, recipe.settings(rule).epochs)


def _known(given: list[str], place: str, path: Path) -> None:
    try:
        for rule in given:
            plugins.check("rule", rule, plugins.in_package(rules))
    except EdgepepError as error:
        raise RecipeError(f"{path}: {place}: {error}") from error


def _checked(model: type[T], table: Any, place: tuple[str, ...], path: Path) -> T:
    try:
        return model.model_validate(table)
    except ValidationError as error:
        raise explained(error, model, str(path), place) from error
