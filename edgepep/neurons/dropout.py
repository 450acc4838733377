"""Dropout that can be repeated."""

import torch
from torch import Tensor, nn

from edgepep import noise
from edgepep.derivatives import pull_back
from edgepep.errors import EdgepepError


class Dropout(nn.Module):
    """Dropout with a mask that is a function of (seed, step, place): the two passes of a step share it unsaved.

    Kept values are divided by 1 - p, as in torch. `Network.renew_noise` goes on to the next step's mask.

    Args:
        p: share of values set to zero, in [0, 1).
        seed: of the masks.
        over_time: the first axis of what it is given is time; the mask is the same at every step.

    Raises:
        EdgepepError: if p is out of range.

    """

    step: Tensor

    def __init__(self, p: float = 0.5, seed: int = 0, over_time: bool = False) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise EdgepepError(f"p is {p}; dropout's share must be at least 0 and below 1.")
        self.p, self.seed, self.place, self.over_time = p, seed, 0, over_time
        self.register_buffer("step", torch.zeros((), dtype=torch.int32))

    def extra_repr(self) -> str:
        """Show the parameters when printed."""
        return f"p={self.p}, seed={self.seed}"

    def renew(self) -> None:
        """Go on to the next mask."""
        self.step += 1

    def forward(self, x: Tensor) -> Tensor:
        """Return x with some values zeroed while training, x itself in evaluation."""
        if not self.training or not self.p:
            return x
        key = noise.key(self.seed, self.place, self.step, device=x.device)
        return x.masked_fill(noise.bernoulli(x.shape[1 if self.over_time else 0 :], self.p, key), 0.0).mul_(
            1 / (1 - self.p)
        )


@pull_back.register
def _(f: Dropout, x: Tensor, delta: Tensor) -> Tensor:
    dropped: Tensor = f(delta)  # linear, with the mask of this step
    return dropped
