"""Synapses whose only weights are integer codes and one scale: no float copy of them exists, trained or not.

Their answer is (x @ codes) * scale, summed in floats and scaled after the sum, and the modulation of PEPITA's second
pass is added to that sum. They learn through `InPlaceSGD`, which adds each step's change to the codes by stochastic
rounding (`edgepep.rounding`). One step is one rounding of the whole batch's gradient: what is promised is the same
random bits on any device and for any batch; the gradient itself is a sum of floats, whose last bits may depend on the
order of summing, and so move a code only where it was within these bits of the threshold.
"""

from __future__ import annotations

import math
import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from edgepep import noise, phases
from edgepep.errors import EdgepepError
from edgepep.local import Factor, Gradient, dense_gradient, input_gradient, respond, weight_gradient
from edgepep.phases import DRAW, phase
from edgepep.rounding import Velocity, stretches, update_
from edgepep.stand_in import StandIn, Weights, nothing

BITS = (8, 6, 4)
REACH = 2.0
"""Weight of the largest code, in bounds of He's uniform distribution; a readout grows into more."""


class IntegerWeights(nn.Module):
    """What linear and convolutional synapses with integer weights have in common.

    Args:
        synapses: plain ones, whose initial weights are rounded; their bias, if any, is taken over, in floats.
        bits: of a code: 8, 6 or 4, each kept in one byte; codes are from -(2**(bits-1) - 1) to 2**(bits-1) - 1.
        seed: of the rounding.
        reach: the weight that the largest code stands for, in He's bounds, sqrt(6 / fan_in); it is the largest initial
            weight, if that is more. It never changes; weights saturate there.

    Raises:
        EdgepepError: for bits that are none of these, or a reach that is not above 0.

    """

    codes: Tensor
    scale: Tensor
    step: Tensor
    weight: Any
    """A StandIn."""
    bias: Any

    def _become(self, synapses: nn.Linear | nn.Conv2d, bits: int, seed: int, reach: float) -> None:
        if bits not in BITS:
            raise EdgepepError(f"integer weights of {bits} bits; they have {', '.join(map(str, BITS))}.")
        weight = synapses.weight.detach()
        if not 0 < reach < math.inf:
            raise EdgepepError(f"reach is {reach}; it must be a number above 0.")
        largest = torch.clamp_min(weight.abs().amax(), reach * math.sqrt(6 / weight[0].numel()))
        self.bits, self.seed, self.place, self.limit = bits, seed, 0, 2 ** (bits - 1) - 1
        scale = largest / self.limit
        self.register_buffer("scale", scale)
        self.register_buffer("codes", (weight / scale).round_().clamp_(-self.limit, self.limit).to(torch.int8))
        self.register_buffer("step", torch.zeros((), dtype=torch.int32, device=weight.device))
        self.bias = synapses.bias
        self.weight = StandIn.of(self, synapses.weight.requires_grad)

    def quant_weight(self) -> Weights:
        """Codes, scale and zero point, and the weights in floats: a copy, for those who ask."""
        return Weights(self.codes, self.scale, torch.zeros_like(self.scale))

    def forward(self, x: Tensor) -> Tensor:
        """From [batch, ...] to the current."""
        if torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad):
            answer: Tensor = _Answer.apply(x, self.weight, self)
        else:
            answer = self.product(x)
        if self.bias is not None:
            answer = answer + (self.bias if isinstance(self, nn.Linear) else self.bias.view(-1, 1, 1))
        return answer

    def product(self, x: Tensor) -> Tensor:
        """Codes times the input, then the scale; no bias."""
        return respond(self, x, self.codes.to(x.dtype)).mul_(self.scale)

    def renew(self) -> None:
        """Nothing: each rounding has a number of its own; but what has noise is given its place in the network."""

    def change_(
        self, gradient: Gradient, scale: Factor, lr: Factor, momentum: float, decay: float, state: dict[str, Tensor]
    ) -> None:
        """Make one step of SGD on the codes, rounded stochastically; momentum, if any, is kept in 8 bits.

        Args:
            gradient: of the weights.
            scale: factor of the gradient.
            lr: learning rate.
            momentum: heavy-ball momentum; 0 keeps no velocity.
            decay: L2 penalty.
            state: where the velocity is kept.

        """
        key = self._next_key()
        if not momentum:
            update_(self.codes, gradient, lr * scale / self.scale, lr * decay if decay else 0.0, key, self.limit)
            return
        keys = key, noise.key(key, 1, device=self.codes.device)
        velocity = Velocity(state, self.codes)
        velocity.update_(self.codes, gradient, scale, momentum, decay * self.scale, lr / self.scale, keys, self.limit)

    def shrink_(self, share: float) -> None:
        """Take a share off the weights, rounded stochastically."""
        update_(self.codes, self.codes, self.scale.new_tensor(share), 0.0, self._next_key(), self.limit)

    def _next_key(self) -> Tensor:
        self.step += 1
        return noise.key(self.seed, self.place, self.step, device=self.codes.device)

    def extra_repr(self) -> str:
        """Show the precision too when printed."""
        return f"{super().extra_repr()}, bits={self.bits}"

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        weight = self.weight
        self._parameters["weight"] = None  # it would be made as large as it looks
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._parameters["weight"] = weight
        weight.data = nothing(self)
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        if isinstance(self.weight, StandIn):
            self.weight._synapses = weakref.ref(self)
            self.weight.data = nothing(self)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        del destination[prefix + "weight"]

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *more: Any) -> None:
        weight, given = self.weight, state_dict.get(prefix + "codes")
        if given is not None and (given.dtype != torch.int8 or (given.abs() > self.limit).any()):
            more[-1].append(f"{prefix}codes are not integers of {self.bits} bits, from {-self.limit} to {self.limit}.")
            return
        self._parameters["weight"] = None
        super()._load_from_state_dict(state_dict, prefix, *more)
        self._parameters["weight"] = weight


class IntegerLinear(IntegerWeights, nn.Linear):
    """Fully connected synapses with integer weights; see IntegerWeights."""

    def __init__(self, synapses: nn.Linear, bits: int = 8, *, seed: int = 0, reach: float = REACH) -> None:
        nn.Linear.__init__(self, synapses.in_features, synapses.out_features, bias=False, device="meta")
        self._become(synapses, bits, seed, reach)

    def product(self, x: Tensor) -> Tensor:
        """Codes times the input, turned into floats a stretch at a time, then the scale."""
        if torch.compiler.is_exporting() or torch._C._get_tracing_state() is not None:
            return super().product(x)
        answer = x.new_empty(*x.shape[:-1], self.out_features)
        flat, whole = x.reshape(-1, x.shape[-1]), answer.view(-1, self.out_features)
        for rows in stretches(self.codes):
            with phase(DRAW, phases.current_layer()):  # a device would unpack value by value
                part = self.codes[rows].to(x.dtype)
            whole[:, rows] = flat @ part.t()
        return answer.mul_(self.scale)


class IntegerConv2d(IntegerWeights, nn.Conv2d):
    """Convolutional synapses with integer weights; see IntegerWeights."""

    def __init__(self, synapses: nn.Conv2d, bits: int = 8, *, seed: int = 0, reach: float = REACH) -> None:
        own = synapses
        names = (
            "in_channels",
            "out_channels",
            "kernel_size",
            "stride",
            "padding",
            "dilation",
            "groups",
            "padding_mode",
        )
        shape: dict[str, Any] = {name: getattr(own, name) for name in names}
        nn.Conv2d.__init__(self, **shape, bias=False, device="meta")
        if hasattr(own, "pads"):
            self.pads: Any = own.pads
        self._become(synapses, bits, seed, reach)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not hasattr(self, "pads"):
            plain: Tensor = super()._conv_forward(input, weight, bias)
            return plain
        return conv2d(pad(input, self.pads), weight, bias, self.stride, 0, self.dilation, self.groups)


class _Answer(torch.autograd.Function):
    """The product, with the gradient of a float weight handed to what stands in its place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, synapses: IntegerWeights) -> Tensor:
        ctx.save_for_backward(x)
        ctx.synapses = synapses
        return synapses.product(x)

    @staticmethod
    def backward(ctx: Any, *deltas: Tensor) -> Any:
        (x,), (delta,), synapses = ctx.saved_tensors, deltas, ctx.synapses
        by_x, by_weight, _ = ctx.needs_input_grad
        below = input_gradient(synapses, x, delta, synapses.quant_weight().value) if by_x else None
        return below, dense_gradient(weight_gradient(synapses, x, delta)["weight"]) if by_weight else None, None


def with_integer_weights(
    synapses: nn.Module, bits: int = 8, *, seed: int = 0, reach: float = REACH
) -> IntegerLinear | IntegerConv2d:
    """Return synapses of integer weights, the nearest to those of plain linear or convolutional ones.

    Args:
        synapses: an nn.Linear or nn.Conv2d.
        bits: 8, 6 or 4.
        seed: of the rounding.
        reach: the weight of the largest code, in He's bounds.

    Raises:
        EdgepepError: for other synapses, and for bits and a reach that cannot be.

    """
    if isinstance(synapses, nn.Linear) and not hasattr(synapses, "quant_weight"):
        return IntegerLinear(synapses, bits, seed=seed, reach=reach)
    if isinstance(synapses, nn.Conv2d) and not hasattr(synapses, "quant_weight"):
        return IntegerConv2d(synapses, bits, seed=seed, reach=reach)
    raise EdgepepError(f"{type(synapses).__name__} cannot have integer weights; nn.Linear and nn.Conv2d can.")
