"""A recipe's words for synapses and what prepares their input, plain or quantised by Brevitas."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def linear(inputs: int, outputs: int, *, bias: bool, bits: int | None = None) -> nn.Module:
    """Fully connected synapses, with weights quantised to some bits."""
    if bits is None:
        return nn.Linear(inputs, outputs, bias=bias)
    from brevitas.nn import QuantLinear

    return QuantLinear(inputs, outputs, bias=bias, weight_bit_width=bits)  # type: ignore[no-any-return]


def conv(inputs: int, outputs: int, kernel: int, *, bias: bool, bits: int | None = None, **shape: Any) -> nn.Module:
    """Convolutional synapses in two dimensions, with weights quantised to some bits."""
    if bits is None:
        return nn.Conv2d(inputs, outputs, kernel, bias=bias, **shape)
    from brevitas.nn import QuantConv2d

    return QuantConv2d(inputs, outputs, kernel, bias=bias, weight_bit_width=bits, **shape)  # type: ignore[no-any-return]


@torch.no_grad()
def initialise_(synapses: nn.Module, how: str) -> None:
    """Set weights to He's uniform distribution, +-sqrt(6 / fan_in), or leave PyTorch's default."""
    if how == "he_uniform":
        weight: Any = synapses.weight
        bound = math.sqrt(6 / weight[0].numel())
        weight.uniform_(-bound, bound)


class Quantiser(nn.Module):
    """An activation quantiser whose scale is calibrated once and then the same in every pass.

    Left to itself, a Brevitas quantiser takes its scale from each batch while training, so that the two passes of a
    forward-only rule would be compared on different grids. It stands before the synapses that read it, not in the
    neurons: what a rule compares is the activity before rounding.

    Args:
        bits: of the codes, which are unsigned: 0 and positive values only; or a Brevitas quantiser to use.

    """

    def __init__(self, bits: int | nn.Module) -> None:
        super().__init__()
        if isinstance(bits, nn.Module):
            self.quantise = bits
        else:
            from brevitas.nn import QuantReLU

            self.quantise = QuantReLU(bit_width=bits)
        self.quantise.eval()

    def train(self, mode: bool = True) -> Quantiser:
        """Set the mode of the module; its scale stays as calibrated."""
        self.training = mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Round to the grid of the calibrated scale."""
        rounded: Tensor = self.quantise(x)
        return rounded


@torch.no_grad()
def calibrate(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set the scale of every activation quantiser from some batches of inputs [batch, ...]."""
    quantisers = [m.quantise for m in network.modules() if isinstance(m, Quantiser)]
    if not quantisers:
        return
    for quantiser in quantisers:
        quantiser.train()
    for x in batches:
        network(x)
    for quantiser in quantisers:
        quantiser.eval()


def preparation(word: str) -> nn.Module:
    """Module for a recipe's word: "flatten", "maxpool 2", "avgpool 2"."""
    kind, *size = word.split()
    if kind == "flatten" and not size:
        return nn.Flatten()
    if kind in ("maxpool", "avgpool") and len(size) == 1 and size[0].isdecimal() and int(size[0]) > 0:
        return nn.MaxPool2d(int(size[0])) if kind == "maxpool" else nn.AvgPool2d(int(size[0]))
    raise ValueError(f"{word!r} is not a preparation; there are 'flatten', 'maxpool N' and 'avgpool N'")
