"""What stands in the place of weights that are integer codes, for whoever expects a parameter in floats."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from edgepep.local import Factor, Gradient


class Synapses(Protocol):
    """Synapses with integer codes."""

    codes: Tensor
    scale: Tensor

    def change_(
        self, gradient: Gradient, scale: Factor, lr: Factor, momentum: float, decay: float, state: dict[str, Tensor]
    ) -> None:
        """Make one step of SGD on the codes."""


class StandIn(nn.Parameter):
    """What a learning rule, an optimizer and autograd see in the place of codes: a weight's shape, and no values.

    It is one number, not a number, expanded; it has a place in an optimizer's groups and may be frozen.
    """

    _synapses: Callable[[], Any]

    @staticmethod
    def of(synapses: Synapses, learns: bool = True) -> StandIn:
        """Make the one of some synapses, on the device of their codes."""
        made = StandIn(nothing(synapses), requires_grad=learns)
        made._synapses = weakref.ref(synapses)
        return made

    @property
    def synapses(self) -> Synapses:
        """Whose codes it stands for."""
        found: Synapses = self._synapses()
        return found

    def __deepcopy__(self, memo: dict[int, Any]) -> StandIn:
        made = memo[id(self)] = StandIn(nothing(self.synapses), requires_grad=self.requires_grad)
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _unlinked, (self.requires_grad,)


def _unlinked(learns: bool) -> StandIn:
    return StandIn(torch.zeros(()), requires_grad=learns)


def nothing(synapses: Synapses) -> Tensor:
    """One number, not a number, in the shape of all the weights."""
    return synapses.scale.new_full((), math.nan).expand(synapses.codes.shape)


class Weights(NamedTuple):
    """Codes and their scale, as Brevitas says it of a quantised weight."""

    codes: Tensor
    scale: Tensor
    zero_point: Tensor

    @property
    def value(self) -> Tensor:
        """The weights in floats."""
        return self.codes * self.scale

    def int(self, float_datatype: bool = True) -> Tensor:
        """The codes."""
        return self.codes.to(self.scale.dtype) if float_datatype else self.codes
