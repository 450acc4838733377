"""The table of rules, from the rules themselves."""

from __future__ import annotations

import inspect
import textwrap

from edgepep import plugins, rules
from edgepep.build import rule_class
from edgepep.rule import Traits

HEAD = ("rule", "passes", "backward pass", "weights known", "not local", "stored", "source")
SHORT = (0, 1, 2, 3, 5)
"""Columns that fit a terminal 80 wide."""
_LETTERS = (
    "A: all activities; A2: those of two layers;",
    "P: one value a weight; maps: classes by width, for each layer; f': the neurons' derivative.",
)
_HAS_BACKWARD = (
    "A rule has a backward pass if it carries an error through the layers one after the other; the tests check it."
)
_BACKWARD = {True: "yes", False: "no", None: "not stated"}


def rows() -> list[tuple[str, ...]]:
    """One row a rule, under HEAD."""
    return [_row(name) for name in plugins.in_package(rules)]


def describe(name: str) -> str:
    """A rule's own description: equation, options, source, traits.

    Raises:
        UnknownName: if there is no such rule.

    """
    kind = rule_class(name)
    traits = "\n".join(f"{head}: {cell}" for head, cell in zip(HEAD[1:], _row(name)[1:], strict=True))
    return f"{name}: {inspect.cleandoc(kind.__doc__ or '')}\n\n{traits}"


def legend() -> str:
    """What stands for what in the table, in lines of 80 characters."""
    return "\n".join([*textwrap.wrap(" ".join(_LETTERS), 80), *textwrap.wrap(_HAS_BACKWARD, 80)])


def markdown() -> str:
    """The table as a page of documentation."""
    lines = [
        "# Learning rules",
        "",
        f"Written by `edgepep rules --markdown` from the rules themselves. {_LETTERS[0]}",
        _LETTERS[1],
        _HAS_BACKWARD,
        "",
        _line(HEAD),
        _line(["---"] * len(HEAD)),
        *(_line([f"`{name}`", *cells]) for name, *cells in rows()),
        "",
        "`edgepep rules NAME` gives a rule's equation and options.",
    ]
    return "\n".join(lines) + "\n"


def _row(name: str) -> tuple[str, ...]:
    kind = rule_class(name)
    traits: Traits = kind.traits
    backward = _BACKWARD[traits.backward]
    return name, traits.passes, backward, traits.transport, traits.non_local, traits.stores, kind.source


def _line(cells: list[str] | tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
