"""Feedback alignment: the error goes down through fixed random matrices."""

from torch import Tensor, nn

from edgepep.credit import CreditChain, spread, weights_of
from edgepep.feedback import Feedback, Storage
from edgepep.network import Network
from edgepep.rule import Traits


class FeedbackAlignment(CreditChain):
    """Backpropagation through fixed random matrices in place of the weights, which come to agree with them.

    Args:
        network: what learns.
        example: one batch of inputs [batch, ...].
        feedback_scale: standard deviation of the matrices, in those that the weights have when the rule is made.
        storage: how the matrices are kept: "float", "int8", "sign", or not at all: "seed".
        seed: of the matrices.

    """

    source = "Lillicrap et al. 2016"
    traits = Traits("1 forward, 1 back", True, "nothing", "error chain, f'", "A + P (A, from a seed)")

    def __init__(
        self,
        network: Network,
        example: Tensor,
        *,
        feedback_scale: float = 1.0,
        storage: Storage = "float",
        seed: int = 0,
    ) -> None:
        super().__init__(network, example)
        self.seed, self.feedback = seed, nn.ModuleDict()
        for i, layer in self.down.items():
            weight, bound = weights_of(layer), feedback_scale * spread(layer) * 3**0.5
            self.feedback[str(i)] = Feedback(weight.shape, bound, seed, i, weight, storage)

    def matrix(self, i: int) -> Tensor:
        """Fixed."""
        values: Tensor = self.feedback[str(i)]()
        return values
