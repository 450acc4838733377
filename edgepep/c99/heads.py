"""The heads of `local_heads` on a device: a readout of each hidden layer, and the way by which its error comes back.

A head's weights are in RAM, beside those of its layer. What its feedback has beside them, which `kolen_pollack` lets
decay, is drawn again wherever it is used: it is kept as one number, the bound that it is drawn with.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from edgepep import noise
from edgepep.c99.feedback import Drawn, drawn_by
from edgepep.c99.preparation import Pair, Shape
from edgepep.errors import ExportError
from edgepep.feedback import key_of
from edgepep.rule import Rule
from edgepep.rules.local_heads import LocalHeads

OFF = 0.01
"""By how much, as a share of the largest, values that have decayed step by step may differ from those drawn again."""

GONE = 1e-30
"""Values so small have stopped to decay alike, and count for nothing."""


@dataclass(frozen=True, eq=False)
class Head:
    """One head, as the kernels know it."""

    shape: Shape
    """Of the layer's answer."""
    window: Pair
    largest: bool
    """A window's largest value is read, else its mean."""
    classes: int
    weights: Tensor | None
    """Floats [classes, pooled answer]; None: as drawn, and they rest."""
    feedback: Drawn
    mirrors: bool
    """The feedback is what is drawn and the weights, and what is drawn decays."""
    rate: float
    keep: float
    """Share of weights and feedback that a step leaves."""
    strength: float
    """Of the second pass; 0: there is f' instead."""

    @property
    def size(self) -> int:
        """Values that it reads."""
        return prod(self.shape) // prod(self.window)

    @property
    def cells(self) -> int:
        """Windows of one map."""
        return self.size // self.shape[0]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of its answer, its credit and its own learning."""
        return (2 if self.weights is None else 3) * self.classes * self.size

    @property
    def numbers(self) -> list[Tensor]:
        """Floats that change, in the order in which they are kept: the bound, the weights."""
        bound = [torch.tensor([self.feedback.bound])] if self.mirrors else []
        return bound + ([] if self.weights is None else [self.weights])

    @property
    def geometry(self) -> tuple[object, ...]:
        """What its weights have to fit."""
        return self.shape, self.window, self.largest, self.classes, self.mirrors, self.weights is None


def heads(rule: Rule | None) -> dict[int, Head]:
    """Heads of a rule by the place of their layer; none, if it has none.

    Raises:
        ExportError: for feedback that is not drawn from its seed.

    """
    if not isinstance(rule, LocalHeads):
        return {}
    strength = rule.strength if rule.second else 0.0
    return {int(place): _head(head, int(place), strength) for place, head in rule.heads.items()}


@torch.no_grad()
def take(rule: Rule, place: int, numbers: list[Tensor]) -> None:
    """Put the numbers of a device's head into a rule's."""
    known: Any = rule
    head = known.heads[str(place)]
    if head.mirrors:
        bound = float(numbers.pop(0))
        if head.feedback is None:
            head.gap.copy_(_integers(head) * bound)
        elif drawn := drawn_by(head.feedback).bound:
            head.left.fill_(bound / drawn)
    for weights in numbers:
        head.weights.copy_(weights)


def _head(head: Any, place: int, strength: float) -> Head:
    classes, channels, *windows = head.shape
    sizes = [*head.sizes, 1, 1]
    cells = [*windows, 1, 1]
    shape = channels, cells[0] * sizes[0], cells[1] * sizes[1]
    if max(sizes) > 255:
        raise ExportError(f"the head of layer {place} has windows of {head.sizes}; in C they are up to 255 wide.")
    return Head(
        shape,
        (sizes[0], sizes[1]),
        head.largest,
        classes,
        None if head.fixed else head.weights.detach(),
        _left(head, place) if head.mirrors else drawn_by(head.feedback),
        head.mirrors,
        head.rate,
        1 - head.decay,
        strength,
    )


def _left(head: Any, place: int) -> Drawn:
    """What a mirror has beside the weights, as the key and the bound that it is drawn with."""
    if head.feedback is not None:
        key, bound = drawn_by(head.feedback)
        return Drawn(key, _single(bound * float(head.left)))
    integers, gap = _integers(head).double().cpu(), head.gap.detach().double().cpu()
    bound = float((integers * gap).sum() / integers.square().sum())
    largest = float(gap.abs().max())
    if largest > GONE and float((gap - bound * integers).abs().max()) > OFF * largest:
        raise ExportError(
            f"the feedback of the head of layer {place} is not what its seed gives: it was changed by hand, and cannot "
            "be drawn again."
        )
    return Drawn(int(key_of(head.seed, head.place)) % 2**32, _single(bound))


def _single(value: float) -> float:
    """The nearest 32-bit float."""
    return float(torch.tensor(value, dtype=torch.float32))


def _integers(head: Any) -> Tensor:
    """What is drawn, before it is given a size."""
    drawn = noise.bits(head.gap.shape, key_of(head.seed, head.place, head.gap.device))
    return (drawn >> 8).to(torch.float32)
