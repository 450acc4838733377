"""Sign symmetry, uniform: the error goes down through the signs of the weights."""

from torch import Tensor

from edgepep.credit import CreditChain, spreads, weights_of
from edgepep.network import Network
from edgepep.rule import Traits, like, one_of


class Usf(CreditChain):
    """Backpropagation through the weights' signs, all of one size (uSF): one bit a weight is transported.

    Args:
        network: what learns.
        example: one batch of inputs [batch, ...].
        magnitude: "initial": the standard deviation that the weights have when the rule is made; "mean": the mean of
            |W|, taken at every step.

    Raises:
        EdgepepError: if magnitude is none of these.

    """

    source = "Liao, Leibo & Poggio 2016; Xiao et al. 2019"
    initial: Tensor
    traits = Traits("1 forward, 1 back", True, "1 bit a weight", "error chain, f', signs of W", "A (P bits)")

    def __init__(self, network: Network, example: Tensor, *, magnitude: str = "initial") -> None:
        super().__init__(network, example)
        one_of("magnitude", magnitude, "initial", "mean")
        self.magnitude = magnitude
        self.register_buffer("initial", spreads(network, like(network)))

    def matrix(self, i: int) -> Tensor:
        """Signs times one size."""
        weight = weights_of(self.down[i])
        return weight.sign().mul_(self.initial[i] if self.magnitude == "initial" else weight.abs().mean())
