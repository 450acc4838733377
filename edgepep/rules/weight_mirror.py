"""Weight mirror: noise sent through each layer teaches the feedback to mirror the weights."""

import torch
from torch import Tensor

from edgepep.network import Layer, Network
from edgepep.rule import Traits, within
from edgepep.rules._alignment import LearnedFeedback, answer, sum_product


class WeightMirror(LearnedFeedback):
    """Backpropagation through matrices that mirror the weights, learned from white noise and the layer's answer to it.

    Noise r of unit variance enters each layer by itself, and with q = W r

        M <- (1 - rate * mirror_decay) M + rate * mean(q^T r)

    whose fixed point is W / mirror_decay. Noise is needed: from activities M would learn W Cov(x).

    Args:
        network: what learns.
        example: one batch of inputs [batch, ...].
        rate: share of the new in M at every step, in (0, 1].
        mirror_decay: 1 makes M approach W itself.
        feedback_scale: standard deviation of the first M, in those that the weights have when the rule is made.
        seed: of the first M and of the noise.

    Raises:
        EdgepepError: if rate or mirror_decay is out of range.

    """

    source = "Akrout et al. 2019"
    traits = Traits("1 forward, 1 back, noise", True, "nothing", "error chain, f'", "A + P")
    step: Tensor

    def __init__(
        self,
        network: Network,
        example: Tensor,
        *,
        rate: float = 0.01,
        mirror_decay: float = 1.0,
        feedback_scale: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(network, example, feedback_scale=feedback_scale, seed=seed)
        within("rate", rate, 0.0, 1.0)
        within("mirror_decay", mirror_decay, 0.0, 10.0)
        self.rate, self.mirror_decay = rate, mirror_decay
        self.times: dict[int, Tensor] = {}
        self.register_buffer("step", torch.zeros((), dtype=torch.int32))

    def begin(self) -> None:
        """Go on to the next noise."""
        self.step += 1

    def align(self, i: int, layer: Layer, pre: Tensor) -> None:
        """Mirror once."""
        r = self.white_noise(i, pre, self.step)
        seen = sum_product(layer, r, answer(layer, r)).div_(r.shape[0] * self._times(i, layer, r))
        self.matrix(i).mul_(1 - self.rate * self.mirror_decay).add_(seen, alpha=self.rate)

    def _times(self, i: int, layer: Layer, r: Tensor) -> Tensor:
        """How often each weight is used on one sample: a kernel's edge meets the padding, and no noise, at a border."""
        if i not in self.times:
            one = torch.ones_like(r[:1])
            each = sum_product(layer, one, torch.ones_like(answer(layer, one)))
            self.times[i] = each[:1, :1].clamp(min=1)  # the same for every pair of channels
        return self.times[i]
