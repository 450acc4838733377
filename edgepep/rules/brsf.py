"""Sign symmetry, batch-wise random magnitudes: sizes drawn anew at every step."""

import torch
from torch import Tensor

from edgepep import noise
from edgepep.credit import CreditChain, spreads, weights_of
from edgepep.network import Network
from edgepep.rule import Traits, like


class Brsf(CreditChain):
    """Backpropagation through |R_t| * sign(W), with R_t drawn at every step (brSF): one bit a weight is transported.

    Args:
        network: what learns.
        example: one batch of inputs [batch, ...].
        feedback_scale: standard deviation of R_t, in those that the weights have when the rule is made.
        seed: of R_t.

    """

    source = "Liao, Leibo & Poggio 2016"
    traits = Traits("1 forward, 1 back", True, "1 bit a weight", "error chain, f', signs of W", "A")
    step: Tensor
    bounds: Tensor

    def __init__(self, network: Network, example: Tensor, *, feedback_scale: float = 1.0, seed: int = 0) -> None:
        super().__init__(network, example)
        self.seed = seed
        self.register_buffer("bounds", spreads(network, like(network)) * (feedback_scale * 3**0.5))
        self.register_buffer("step", torch.zeros((), dtype=torch.int32))

    def begin(self) -> None:
        """Go on to the next sizes."""
        self.step += 1

    def matrix(self, i: int) -> Tensor:
        """Signs of the weights, sizes of this step."""
        weight = weights_of(self.down[i])
        key = noise.key(self.seed, i, self.step, device=weight.device)
        return noise.uniform(weight.shape, 1.0, key).abs_().to(weight.dtype).mul_(self.bounds[i]).mul_(weight.sign())
