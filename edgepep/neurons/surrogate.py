"""The derivative that stands in for that of a spike."""

import math
from typing import Any

import torch
from torch import Tensor


class Arctangent(torch.autograd.Function):
    """A spike where x > 0, with the derivative 1 / (1 + (pi x)^2) (Fang et al. 2021).

    It is snnTorch's default, in the dtype of x.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Spikes for a potential less its threshold."""
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Gradient in x."""
        (x,) = ctx.saved_tensors
        slope: Tensor = (x * math.pi).square_().add_(1).reciprocal_()
        return gradients[0] * slope


def arctangent(x: Tensor) -> Tensor:
    """Spikes for a potential less its threshold."""
    spikes: Tensor = Arctangent.apply(x)
    return spikes
