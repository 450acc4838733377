"""Kolen-Pollack: feedback and weights change by the same steps and decay, and so become equal."""

import torch
from torch import Tensor

from edgepep.credit import weights_of
from edgepep.local import shrink_
from edgepep.network import Layer, Network
from edgepep.rule import Traits, within
from edgepep.rules.feedback_alignment import FeedbackAlignment


class KolenPollack(FeedbackAlignment):
    """Backpropagation through matrices that learn by the weights' own updates; no weight is transported.

    Both synapses see the same activity and the same error, so M gets every change that W gets, from whatever
    optimizer, and both lose the same share a step (the rule decays W itself, apart from the optimizer):

        W <- (1 - decay) W - change;    M <- (1 - decay) M - change;    hence    M - W shrinks as (1 - decay)^t

    That makes M - W all there is to keep: the rule stores the gap, in the place of M, and adds the weights to it when
    it needs M; the same numbers up to rounding. The published code of Akrout et al. runs without decay (`decay=0`):
    the gap then stays, and is only outgrown.

    Args:
        network: what learns.
        example: one batch of inputs [batch, ...].
        decay: share of weights and feedback that is lost at every step, from 0 to 1.
        feedback_scale: standard deviation of the first M, in those that the weights have when the rule is made.
        seed: of the first M.

    Raises:
        EdgepepError: if decay is out of range.

    """

    source = "Kolen & Pollack 1994; Akrout et al. 2019"
    traits = Traits("1 forward, 1 back", True, "nothing", "error chain, f'", "A + P")

    def __init__(
        self, network: Network, example: Tensor, *, decay: float = 1e-4, feedback_scale: float = 1.0, seed: int = 0
    ) -> None:
        super().__init__(network, example, feedback_scale=feedback_scale, seed=seed)
        within("decay", decay, 0.0, 1.0)
        self.decay = decay
        with torch.no_grad():
            for i, layer in self.down.items():
                self.gap(i).sub_(weights_of(layer))

    def gap(self, i: int) -> Tensor:
        """M - W of layer i."""
        return super().matrix(i)

    def matrix(self, i: int) -> Tensor:
        """M, from the gap and the weights."""
        return weights_of(self.down[i]) + self.gap(i)

    def align(self, i: int, layer: Layer, pre: Tensor) -> None:
        """Decay both; the update that they share is the weights' own."""
        if self.decay and layer.learns:
            self.gap(i).mul_(1 - self.decay)
            shrink_(layer.synapses, self.decay)
