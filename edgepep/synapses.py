"""A recipe's words for synapses and what prepares their input, plain or quantised by Brevitas."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from edgepep.fakequant import rounded
from edgepep.neurons import Normalise

NORMS = {"rmsnorm": "rms", "l2norm": "l2", "layernorm": "layer"}
"""A recipe's words for normalisations of each sample by itself, without learned scale or shift."""


def linear(inputs: int, outputs: int, *, bias: bool, bits: int | None = None, **scales: bool) -> nn.Module:
    """Fully connected synapses, with weights quantised to some bits; scales as for `quantisers.weights`."""
    if bits is None:
        return nn.Linear(inputs, outputs, bias=bias)
    from brevitas.nn import QuantLinear

    from edgepep import quantisers

    return QuantLinear(inputs, outputs, bias=bias, **quantisers.weights(bits, **scales))  # type: ignore[no-any-return]


def conv(
    inputs: int, outputs: int, kernel: int | tuple[int, int], *, bias: bool, bits: int | None = None, **shape: Any
) -> nn.Module:
    """Convolutional synapses in two dimensions, with weights quantised to some bits; scales as for linear ones."""
    pads = shape.pop("pads", None)
    scales = {key: shape.pop(key) for key in ("per_channel", "power_of_two") if key in shape}
    if pads is not None:
        return PaddedConv2d(inputs, outputs, kernel, pads=pads, bias=bias, **shape)
    if bits is None:
        return nn.Conv2d(inputs, outputs, kernel, bias=bias, **shape)
    from brevitas.nn import QuantConv2d

    from edgepep import quantisers

    own = quantisers.weights(bits, **scales)
    return QuantConv2d(inputs, outputs, kernel, bias=bias, **own, **shape)  # type: ignore[no-any-return]


def same_pads(size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int]) -> tuple[int, int, int, int]:
    """Zeros that TensorFlow's SAME puts left, right, above and below: the odd one goes right and below."""
    total = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(size, kernel, stride, strict=True)]
    (above, below), (left, right) = [(n // 2, n - n // 2) for n in total]
    return left, right, above, below


class PaddedConv2d(nn.Conv2d):
    """A convolution with its own number of zeros on each side, which are never kept: only the bare input is.

    Args:
        *shape: of nn.Conv2d.
        pads: zeros left, right, above and below.
        **options: of nn.Conv2d, but padding.

    """

    def __init__(self, *shape: Any, pads: tuple[int, int, int, int], **options: Any) -> None:
        super().__init__(*shape, **options)
        self.pads = pads

    def extra_repr(self) -> str:
        """Show the pads too when printed."""
        plain: str = super().extra_repr()  # type: ignore[no-untyped-call]
        return f"{plain}, pads={self.pads}"

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if torch.is_grad_enabled() and (input.requires_grad or weight.requires_grad):
            kept: Tensor = _PadAndConvolve.apply(input, weight, bias, self)
            return kept
        return conv2d(pad(input, self.pads), weight, bias, self.stride, 0, self.dilation, self.groups)


class _PadAndConvolve(torch.autograd.Function):
    """Pads for the moment of the product only; autograd would keep the padded copy."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, layer: PaddedConv2d) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.layer, ctx.biased = layer, bias is not None
        return conv2d(pad(x, layer.pads), weight, bias, layer.stride, 0, layer.dilation, layer.groups)

    @staticmethod
    def backward(ctx: Any, *deltas: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        layer: PaddedConv2d = ctx.layer
        (delta,), (left, _, above, _) = deltas, layer.pads
        wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.biased]
        by_x, by_weight, by_bias = torch.ops.aten.convolution_backward(
            delta,
            pad(x, layer.pads),
            weight,
            [len(weight)] if ctx.biased else None,
            layer.stride,
            (0, 0),
            layer.dilation,
            False,
            (0, 0),
            layer.groups,
            wanted,
        )
        if by_x is not None:
            by_x = by_x[..., above : above + x.shape[-2], left : left + x.shape[-1]]
        return by_x, by_weight, by_bias, None


@torch.no_grad()
def initialise_(synapses: nn.Module, how: str) -> None:
    """Set weights to He's uniform distribution, +-sqrt(6 / fan_in), or leave PyTorch's default.

    "orthogonal" weights have orthogonal rows, or columns if there are fewer of them (Saxe, McClelland & Ganguli 2014),
    and He's variance, 2 / fan_in.
    """
    weight: Any = synapses.weight
    fan_in = weight[0].numel()
    if how == "he_uniform":
        bound = math.sqrt(6 / fan_in)
        weight.uniform_(-bound, bound)
    elif how == "orthogonal":
        nn.init.orthogonal_(weight, math.sqrt(2 * max(1.0, len(weight) / fan_in)))


class Quantiser(nn.Module):
    """An activation quantiser whose scale is calibrated once and then the same in every pass.

    Left to itself, a Brevitas quantiser takes its scale from each batch while training, so that the two passes of a
    forward-only rule would be compared on different grids. It stands before the synapses that read it, not in the
    neurons: what a rule compares is the activity before rounding.

    Args:
        bits: of the codes, which are unsigned: 0 and positive values only; or a Brevitas quantiser to use.
        power_of_two: the scale is a power of two.

    """

    def __init__(self, bits: int | nn.Module, power_of_two: bool = False) -> None:
        super().__init__()
        if isinstance(bits, nn.Module):
            self.quantise = bits
        else:
            from edgepep import quantisers

            self.quantise = quantisers.activities(bits, power_of_two)
        self.quantise.eval()

    def train(self, mode: bool = True) -> Quantiser:
        """Set the mode of the module; its scale stays as calibrated."""
        self.training = mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Round to the grid of the calibrated scale."""
        return rounded(self.quantise, x)


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
    """Module for a recipe's word: "flatten", "rmsnorm", "maxpool 2", "avgpool 25x5"."""
    kind, *size = word.split()
    if kind == "flatten" and not size:
        return nn.Flatten()
    if kind in NORMS and not size:
        return Normalise(NORMS[kind])
    sides = size[0].split("x") if len(size) == 1 else []
    if kind in ("maxpool", "avgpool") and len(sides) in (1, 2) and all(n.isdecimal() and int(n) > 0 for n in sides):
        window = (int(sides[0]), int(sides[-1]))
        return nn.MaxPool2d(window) if kind == "maxpool" else nn.AvgPool2d(window)
    norms = ", ".join(map(repr, NORMS))
    raise ValueError(
        f"{word!r} is not a preparation; there are 'flatten', {norms}, 'maxpool N' or 'NxM', 'avgpool N' or 'NxM'"
    )
