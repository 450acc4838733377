"""Multiply-accumulates of torch's operators: one row an operator, one multiplication and addition counted as one."""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


def _product(a: Tensor, b: Tensor) -> int:
    return a.numel() * b.shape[-1]


def _convolution(weight: Tensor, answer: Tensor) -> int:
    """Each output element is a sum over one kernel; a group's kernel sees its own channels only."""
    return answer.numel() * prod(weight.shape[1:])


def _convolution_backward(arguments: tuple[Any, ...], answer: Any) -> int:
    delta, _, weight, *_, wanted = arguments
    return sum(delta.numel() * prod(weight.shape[1:]) for want in wanted[:2] if want)


# From the operator's arguments and its answer to the number of multiply-accumulates.
MACS: dict[Any, Callable[[tuple[Any, ...], Any], int]] = {
    aten.mm.default: lambda a, _: _product(a[0], a[1]),
    aten.addmm.default: lambda a, _: _product(a[1], a[2]),
    aten.addmm_.default: lambda a, _: _product(a[1], a[2]),
    aten.bmm.default: lambda a, _: _product(a[0], a[1]),
    aten.baddbmm.default: lambda a, _: _product(a[1], a[2]),
    aten.mv.default: lambda a, _: a[0].numel(),
    aten.addmv.default: lambda a, _: a[1].numel(),
    aten.dot.default: lambda a, _: a[0].numel(),
    aten.addr.default: lambda a, _: a[1].numel() * a[2].numel(),
    aten.addr_.default: lambda a, _: a[1].numel() * a[2].numel(),
    aten.convolution.default: lambda a, answer: _convolution(a[1], answer),
    aten.convolution_backward.default: _convolution_backward,
}


def macs(operator: Any, arguments: tuple[Any, ...], answer: Any) -> int:
    """Multiply-accumulates of one call; 0 for operators that only move, compare or work element by element."""
    count = MACS.get(operator)
    return count(arguments, answer) if count else 0


# Which argument of a product is the activity.
_ACTIVITY = {
    aten.mm.default: 0,
    aten.addmm.default: 1,
    aten.bmm.default: 0,
    aten.mv.default: 1,
    aten.convolution.default: 0,
}


def density(operator: Any, arguments: tuple[Any, ...]) -> tuple[float, bool]:
    """Share of the activity's elements that are not zero, and whether all the others are one; (1, False) if unknown."""
    place = _ACTIVITY.get(operator)
    if place is None:
        return 1.0, False
    activity: Tensor = arguments[place]
    count = int(activity.count_nonzero())
    return count / max(activity.numel(), 1), count == int((activity == 1).sum())
