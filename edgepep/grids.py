"""What a Brevitas quantiser computes, read off its modules once, and computed again in a few tensor operations.

Every operation that rounds is the one that Brevitas uses, on operands of the same shape, so that answers agree bit for
bit. What is constant (bounds of the codes, the threshold that a range is divided by, a frozen scale) is asked of
Brevitas' own modules. Brevitas is not imported here: its modules are known by their names.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

_ROUNDINGS = {"RoundSte": "round_", "CeilSte": "ceil_", "FloorSte": "floor_", "RoundToZeroSte": "trunc_"}
_CLAMPS = ("TensorClamp", "TensorClampSte")
_FROZEN = ("ParameterFromRuntimeStatsScaling", "ParameterScaling", "ConstScaling")


class Grid(NamedTuple):
    """Codes between two bounds, each standing for itself times a scale."""

    low: float
    high: float
    rounding: str
    """Name of the in-place operation."""

    def round(self, x: Tensor, scale: Tensor) -> Tensor:
        """Return x rounded to the grid; the scale broadcasts."""
        codes: Tensor = getattr(torch.div(x, scale), self.rounding)()
        return codes.clamp_(self.low, self.high).mul_(scale)


class Scale(NamedTuple):
    """The scale of weights, from their largest or mean magnitude, of the whole tensor or of each output channel."""

    shape: tuple[int, ...]
    """() for the whole tensor, else [out, 1, ...]."""
    mean: bool
    least: float | None
    """Below which the magnitude does not fall."""
    power: str
    """For powers of two, the rounding of the exponent; else empty."""
    threshold: Tensor | None
    """The code that the magnitude stands for."""

    def __call__(self, weight: Tensor) -> Tensor:
        """Scale of weights [out, ...], of the shape of this scale."""
        flat, axis = (weight.flatten(1), (1,)) if self.shape else (weight.reshape(-1), (0,))
        if self.mean:
            size = flat.abs().mean(1) if self.shape else flat.abs().mean()
        else:
            size = torch.maximum(flat.amax(axis), flat.amin(axis).neg_())
        size = self._at_least(size.view(self.shape))
        if self.power:
            size = self._at_least(2.0 ** getattr(size.log2(), self.power)())
        return size if self.threshold is None else size / self.threshold

    def _at_least(self, size: Tensor) -> Tensor:
        return size if self.least is None else size.clamp_min(self.least)


class Constant(NamedTuple):
    """A scale that does not depend on the weights."""

    scale: Tensor

    def __call__(self, weight: Tensor) -> Tensor:
        """The scale."""
        return self.scale


class Weights(NamedTuple):
    """A weight quantiser: integers on a grid, or without one the sign times the scale."""

    scale: Scale | Constant
    grid: Grid | None
    clips: bool = False
    """The weights themselves are held within the scale, as by Brevitas' in-place clamp."""

    def __call__(self, weight: Tensor) -> Tensor:
        """Quantised weights, in floats."""
        scale = self.scale(weight)
        if self.grid is not None:
            return self.grid.round(weight, scale)
        if self.clips:
            weight.clamp_(-scale, scale)
        return torch.where(weight >= 0, scale, -scale)


def kind(module: object) -> str:
    """Name of a module's class, if it is one of Brevitas' own; else empty."""
    return type(module).__name__ if type(module).__module__.startswith("brevitas.") else ""


@torch.no_grad()
def weights(quant: Any) -> Weights | None:
    """The arithmetic of a weight quantiser, from its `tensor_quant`; None if it is not one that is known here."""
    if kind(quant) in ("BinaryQuant", "ClampedBinaryQuant"):
        clamp = kind(quant.tensor_clamp_impl) if kind(quant) == "ClampedBinaryQuant" else _CLAMPS[0]
        if kind(quant.delay_wrapper.delay_impl) != "_NoDelay" or clamp not in (*_CLAMPS, "InplaceTensorClampSte"):
            return None
        constant = kind(quant.scaling_impl) == "ConstScaling"
        like = quant.zero_point()
        scale = Constant(quant.scaling_impl(like)) if constant else _from_statistics(quant.scaling_impl, None)
        return None if scale is None else Weights(scale, None, clamp == "InplaceTensorClampSte")
    grid = integers(quant)
    if grid is None:
        return None
    scale = _from_statistics(quant.scaling_impl, quant.int_scaling_impl(quant.msb_clamp_bit_width_impl()))
    return None if scale is None else Weights(scale, grid)


@torch.no_grad()
def integers(quant: Any) -> Grid | None:
    """The codes of an integer quantiser, from its `tensor_quant`; None if it is not one that is known here."""
    if kind(quant) != "RescalingIntQuant" or quant.observer_only or kind(quant.zero_point_impl) != "ZeroZeroPoint":
        return None
    own = quant.int_quant
    known = (
        kind(own) == "IntQuant"
        and kind(own.float_to_int_impl) in _ROUNDINGS
        and kind(own.tensor_clamp_impl) in _CLAMPS
        and kind(own.delay_wrapper.delay_impl) == "_NoDelay"
        and kind(own.input_view_impl) == "Identity"
        and kind(quant.msb_clamp_bit_width_impl) == "BitWidthConst"
    )
    if not known:
        return None
    bits = quant.msb_clamp_bit_width_impl()
    return Grid(float(own.min_int(bits)), float(own.max_int(bits)), _ROUNDINGS[kind(own.float_to_int_impl)])


def activities(quant: Any) -> Grid | None:
    """The codes of an activation quantiser whose scale is, in evaluation mode, a number whatever the input."""
    return integers(quant) if kind(quant.scaling_impl) in _FROZEN and not quant.scaling_impl.training else None


def _from_statistics(scaling: Any, threshold: Tensor | None) -> Scale | None:
    """The scale that Brevitas computes from the weights, given the largest code."""
    if kind(scaling) != "StatsFromParameterScaling":
        return None
    read, after = scaling.parameter_list_stats, scaling.stats_scaling_impl
    statistic, shape = read.stats.stats_impl, tuple(read.stats.stats_output_shape)
    least, restrict = after.clamp_scaling.clamp_min_ste, after.restrict_clamp_scaling
    value = restrict.restrict_value_impl
    power = _ROUNDINGS.get(kind(value.float_to_int_impl), "") if kind(value) == "PowerOfTwoRestrictValue" else ""
    known = (
        kind(read.first_tracked_param) == "_ViewParameter"
        and read.extra_tracked_params_list is None
        and kind(statistic) in ("AbsMax", "AbsAve")
        and _covers(read.first_tracked_param.view_shape_impl, statistic.stats_reduce_dim, shape)
        and kind(after.affine_rescaling) == "Identity"
        and kind(after.restrict_clamp_scale_threshold.clamp_ste) == "Identity"
        and kind(after.restrict_clamp_scale_threshold.restrict_value_impl) == "Identity"
        and kind(least) == kind(restrict.clamp_ste) in ("Identity", "ScalarSignedClampMinSte")
        and getattr(least, "min_val", None) == getattr(restrict.clamp_ste, "min_val", None)
        and (kind(value) == "FloatRestrictValue" or bool(power))
    )
    if not known:
        return None
    if threshold is not None:
        threshold = after.restrict_clamp_threshold(after.restrict_threshold_pre(threshold))
    return Scale(shape, kind(statistic) == "AbsAve", getattr(least, "min_val", None), power, threshold)


def _covers(view: Any, axis: int | None, shape: tuple[int, ...]) -> bool:
    """Whether a statistic is of the whole tensor, or of each output channel."""
    if kind(view) == "OverTensorView":
        return axis is None and shape == ()
    channels = kind(view) == "OverOutputChannelView" and kind(view.permute_impl) == "Identity"
    return channels and axis == 1 and len(shape) > 1 and all(n == 1 for n in shape[1:])
