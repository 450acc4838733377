"""Brevitas quantisers by a recipe's words, and binary ones that Brevitas does not have ready-made.

Importing this imports Brevitas.
"""

from __future__ import annotations

from typing import Any

from brevitas.core.restrict_val import RestrictValueType
from brevitas.core.scaling import ScalingImplType, ScalingPerOutputType
from brevitas.inject import ExtendedInjector
from brevitas.inject.enum import QuantType, StatsOp
from brevitas.nn import QuantReLU
from brevitas.quant.fixed_point import (
    Int8WeightPerChannelFixedPoint,
    Int8WeightPerTensorFixedPoint,
    Uint8ActPerTensorFixedPoint,
)
from brevitas.quant.scaled_int import Int8WeightPerChannelFloat, Int8WeightPerTensorFloat, Uint8ActPerTensorFloat
from brevitas.quant.solver import WeightQuantSolver
from torch import nn

from edgepep.errors import EdgepepError

_MOST_BITS = 16


class _Binary(ExtendedInjector):  # type: ignore[misc]
    quant_type = QuantType.BINARY
    scaling_impl_type = ScalingImplType.STATS
    scaling_stats_op = StatsOp.AVE
    scaling_min_val = 1e-10
    restrict_scaling_type = RestrictValueType.FP
    narrow_range = True
    signed = True
    bit_width = 1


class SignedBinaryWeightPerTensorMean(_Binary, WeightQuantSolver):  # type: ignore[misc]
    """Weights of one bit: their sign times the mean magnitude of all of them (Rastegari et al. 2016, XNOR-Net)."""

    scaling_per_output_type = ScalingPerOutputType.TENSOR


class SignedBinaryWeightPerChannelMean(_Binary, WeightQuantSolver):  # type: ignore[misc]
    """Weights of one bit: their sign times the mean magnitude of those of their output channel."""

    scaling_per_output_type = ScalingPerOutputType.CHANNEL


_WEIGHTS = {
    (False, False): Int8WeightPerTensorFloat,
    (True, False): Int8WeightPerChannelFloat,
    (False, True): Int8WeightPerTensorFixedPoint,
    (True, True): Int8WeightPerChannelFixedPoint,
}


def weights(bits: int, *, per_channel: bool = False, power_of_two: bool = False) -> dict[str, Any]:
    """Options of Brevitas' synapses for weights of some bits.

    Args:
        bits: 3 to 16 for integers of a narrow range, whose scale is that of the largest weight; 2 for -1, 0 and 1,
            whose scale is the mean magnitude, for by the largest nearly all would be 0; 1 for sign x mean.
        per_channel: a scale for each output channel, rather than one for all weights.
        power_of_two: scales are powers of two, rounded up, and of 2 bits too that of the largest weight.

    Raises:
        EdgepepError: for bits out of range, or 1 bit with a power of two.

    """
    _check("weights", bits)
    if bits > 1:
        mean = {"weight_scaling_stats_op": StatsOp.AVE} if bits == 2 and not power_of_two else {}
        return {"weight_quant": _WEIGHTS[bool(per_channel), bool(power_of_two)], "weight_bit_width": bits, **mean}
    if power_of_two:
        raise EdgepepError("weights of 1 bit are sign x mean, whose scale is no power of two; take 2 bits or more.")
    return {"weight_quant": SignedBinaryWeightPerChannelMean if per_channel else SignedBinaryWeightPerTensorMean}


def activities(bits: int, power_of_two: bool = False) -> nn.Module:
    """A quantiser of activities that are not negative, whose scale follows from the batches it is run on.

    Raises:
        EdgepepError: for bits out of range.

    """
    _check("activities", bits)
    kind = Uint8ActPerTensorFixedPoint if power_of_two else Uint8ActPerTensorFloat
    quantiser: nn.Module = QuantReLU(act_quant=kind, bit_width=bits)
    return quantiser


def _check(what: str, bits: int) -> None:
    if not 1 <= bits <= _MOST_BITS:
        raise EdgepepError(f"{what} are quantised to {bits} bits; there are 1 to {_MOST_BITS}.")
