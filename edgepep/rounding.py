"""Stochastic rounding of updates into integer codes, a stretch of rows at a time, so that no float copy is ever made.

A change c moves a code by floor(c) or one more, up with the probability of what is left over: the mean is c, however
small c is, where rounding to the nearest would lose all that is less than half a code. The random bits are a hash of
(key, index of the weight), so they are the same on every device, and whatever the rows are cut into.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from edgepep import noise, phases
from edgepep.local import Factor, Gradient, Product
from edgepep.phases import DRAW, phase
from edgepep.stand_in import StandIn

_IN_CACHE, _ON_GPU = 2**15, 2**22
"""Weights in a stretch: their floats stay in a processor's cache, or fill a GPU."""


def stretches(codes: Tensor) -> Iterator[slice]:
    """Rows of codes [out, ...] that are turned into floats together, stretch by stretch."""
    if torch.compiler.is_exporting():  # a graph is as long as its stretches are many
        yield slice(0, len(codes))
        return
    size = _ON_GPU if codes.is_cuda else _IN_CACHE
    rows = max(1, size // max(1, codes[0].numel()))
    for start in range(0, len(codes), rows):
        yield slice(start, min(start + rows, len(codes)))


def parts(weight: Tensor) -> set[torch.Size]:
    """Shapes in which the gradient of a weight may arise: its own, or, of integer codes, those of stretches of rows."""
    if not isinstance(weight, StandIn):
        return {weight.shape}
    codes = weight.synapses.codes
    return {weight.shape, *(codes[rows].flatten(1).shape for rows in stretches(codes))}


def dither(codes: Tensor, rows: slice, key: Tensor) -> Tensor:
    """Float32 values between -1/2 and 1/2, never either, one for each code of some rows."""
    columns = codes[0].numel()
    with phase(DRAW, phases.current_layer()):
        drawn = noise.bits((rows.stop - rows.start, columns), key, start=rows.start * columns)
        return drawn.bitwise_right_shift_(9).to(torch.float32).add_(0.5).mul_(2.0**-23)


def round_into_(codes: Tensor, rows: slice, change: Tensor, limit: int) -> None:
    """Add a dithered change [rows, columns] to some rows of codes, in place, and keep them within +-limit.

    A change that is not a number is none. The change is overwritten.
    """
    part = codes[rows]
    part.copy_(change.view(part.shape).round_().nan_to_num_(0.0).add_(part).clamp_(-limit, limit))


def update_(codes: Tensor, gradient: Gradient, factor: Factor, decay: Factor, key: Tensor, limit: int) -> None:
    """Set codes to codes - factor * gradient - decay * codes, rounded stochastically.

    Args:
        codes: int8 [out, ...], changed in place.
        gradient: of the weights, whole or as the two factors of a product, which is formed a stretch at a time.
        factor: learning rate over scale, 0-d.
        decay: share of the codes that is lost.
        key: of the random bits, from `noise.key`.
        limit: largest code.

    """
    for rows in stretches(codes):
        change = dither(codes, rows, key)
        add_(change, gradient, rows, -factor)
        if not (isinstance(decay, float) and decay == 0.0):
            change.add_(codes[rows].reshape(change.shape) * -decay)
        round_into_(codes, rows, change, limit)


def add_(total: Tensor, gradient: Gradient, rows: slice, factor: Factor) -> None:
    """Add factor times some rows of a gradient to a total [rows, columns] in place."""
    if isinstance(gradient, Product):
        scaled = torch.mul(gradient.left[:, rows], factor)  # type: ignore[arg-type]
        left, right = scaled.to(total.dtype), gradient.right.to(total.dtype)
        total.addmm_(left.t(), right)
    else:
        total.add_(gradient[rows].reshape(total.shape) * factor)


class Velocity:
    """Momentum in 8 bits: codes, and a scale for each row, both kept in an optimizer's state.

    Args:
        state: of the weights in the optimizer; filled at the first update.
        codes: of the weights.

    """

    def __init__(self, state: dict[str, Tensor], codes: Tensor) -> None:
        if "velocity_codes" not in state:
            state["velocity_codes"] = torch.zeros_like(codes, memory_format=torch.contiguous_format)
            state["velocity_scale"] = torch.zeros(len(codes), 1, dtype=torch.float32, device=codes.device)
        self.codes, self.scale = state["velocity_codes"].view(len(codes), -1), state["velocity_scale"]

    def update_(
        self,
        codes: Tensor,
        gradient: Gradient,
        scale: Factor,
        momentum: float,
        decay: Tensor,
        rate: Factor,
        keys: tuple[Tensor, Tensor],
        limit: int,
    ) -> None:
        """Set v to momentum * v + scale * gradient + decay * codes, and codes to codes - rate * v, both rounded.

        Args:
            codes: int8 [out, ...], changed in place.
            gradient: of the weights.
            scale: factor of the gradient.
            momentum: share of v that is left after a step.
            decay: weight decay times the scale of the codes, 0-d.
            rate: learning rate over that scale, 0-d.
            keys: of the random bits for the codes and for v.
            limit: largest code.

        """
        for rows in stretches(codes):
            moving = self.codes[rows].to(torch.float32).mul_(self.scale[rows] * momentum)
            add_(moving, gradient, rows, scale)
            moving.add_(codes[rows].reshape(moving.shape) * decay)
            round_into_(codes, rows, dither(codes, rows, keys[0]).sub_(moving * rate), limit)
            largest = moving.abs().amax(1, keepdim=True).div_(127.0)
            self.scale[rows] = largest
            self.codes[rows] = 0
            round_into_(self.codes, rows, moving.div_(largest).add_(dither(codes, rows, keys[1])), 127)
