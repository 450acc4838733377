"""One step of SGD on one parameter, in place."""

from __future__ import annotations

import torch
from torch import Tensor

from edgepep.local import Factor, Gradient, accumulate_
from edgepep.stand_in import StandIn


def descend_(
    parameter: Tensor,
    gradient: Gradient,
    scale: Factor,
    lr: Factor,
    momentum: float,
    decay: float,
    state: dict[str, Tensor],
) -> None:
    """Make one step of SGD on one parameter, in place.

    Args:
        parameter: what changes, or what stands for integer codes.
        gradient: of it.
        scale: factor of the gradient.
        lr: learning rate.
        momentum: heavy-ball momentum; 0 keeps no velocity.
        decay: L2 penalty.
        state: where the velocity is kept.

    """
    if isinstance(parameter, StandIn):
        parameter.synapses.change_(gradient, scale, lr, momentum, decay, state)
    elif momentum:
        velocity = state.get("momentum_buffer")
        if velocity is None:
            velocity = state["momentum_buffer"] = torch.zeros_like(parameter)
        accumulate_(velocity, gradient, beta=momentum, alpha=scale)
        if decay:
            velocity.add_(parameter, alpha=decay)
        accumulate_(parameter, velocity, alpha=-lr)
    else:
        accumulate_(parameter, gradient, beta=1 - lr * decay if decay else 1.0, alpha=-lr * scale)
