"""Noise on updates: what an imprecise or analogue device, or a brain, adds to what a rule asks for.

Kunin et al. 2020 (arXiv 2003.01513) compare alignment rules under it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgepep import noise
from edgepep.errors import EdgepepError
from edgepep.local import Gradient, dense_gradient

COUNTER = "step"
"""What the count of updates is called in an optimizer's state; torch keeps the type of a tensor of this name."""


class UpdateNoise:
    """Gaussian noise on every update of a parameter, drawn anew from (seed, parameter, number of the update).

    Args:
        share: standard deviation, as a share of the update's own root mean square.
        seed: of what is drawn.

    Raises:
        EdgepepError: if the share is negative or not finite.

    """

    def __init__(self, share: float, seed: int) -> None:
        if not 0 <= share < float("inf"):
            raise EdgepepError(f"update noise is {share}; it must be at least 0.")
        self.share, self.seed = share, seed

    def added(self, gradient: Gradient, place: int, state: dict[str, Tensor]) -> Gradient:
        """Return a gradient with noise.

        Args:
            gradient: as a rule gives it.
            place: the parameter's number.
            state: what an optimizer keeps of the parameter; the count of its updates is kept in it.

        """
        if not self.share:
            return gradient
        values = dense_gradient(gradient)
        count = state.get(COUNTER)
        if count is None:
            count = state[COUNTER] = torch.zeros((), dtype=torch.int32, device=values.device)
        count += 1
        drawn = noise.normal(values.shape, noise.key(self.seed, place, count, 3, device=values.device))
        return values + drawn.to(values.dtype) * (self.share * values.square().mean().sqrt())
