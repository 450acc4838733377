"""Symmetric alignment: the feedback is pulled to the weights themselves."""

from torch import Tensor

from edgepep.credit import weights_of
from edgepep.network import Layer, Network
from edgepep.rule import Traits, within
from edgepep.rules._alignment import LearnedFeedback


class SymmetricAlignment(LearnedFeedback):
    """Backpropagation through matrices that follow the weights: M <- (1 - rate) M + rate W (self and decay terms).

    It reads the weights, so it is a yardstick of what alignment can reach rather than a local rule.

    Args:
        network: what learns.
        example: one batch of inputs [batch, ...].
        rate: in (0, 1].
        feedback_scale: standard deviation of the first M, in those that the weights have when the rule is made.
        seed: of the first M.

    Raises:
        EdgepepError: if rate is out of range.

    """

    source = "Kunin et al. 2020 (arXiv 2003.01513)"
    traits = Traits("1 forward, 1 back", True, "all weights, slowly", "error chain, f', W", "A + P")

    def __init__(
        self, network: Network, example: Tensor, *, rate: float = 0.01, feedback_scale: float = 1.0, seed: int = 0
    ) -> None:
        super().__init__(network, example, feedback_scale=feedback_scale, seed=seed)
        within("rate", rate, 0.0, 1.0)
        self.rate = rate

    def align(self, i: int, layer: Layer, pre: Tensor) -> None:
        """Move towards the weights."""
        self.matrix(i).lerp_(weights_of(layer), self.rate)
