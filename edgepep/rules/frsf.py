"""Sign symmetry, fixed random magnitudes: the error goes down through the weights' signs, sized once at random."""

from torch import Tensor

from edgepep.credit import weights_of
from edgepep.rule import Traits
from edgepep.rules.feedback_alignment import FeedbackAlignment


class Frsf(FeedbackAlignment):
    """Backpropagation through |R| * sign(W), with R fixed and random (frSF): one bit a weight is transported.

    Args:
        network: what learns.
        example: one batch of inputs [batch, ...].
        **options: of feedback_alignment, for R.

    """

    source = "Liao, Leibo & Poggio 2016; Moskovitz, Litwin-Kumar & Abbott 2018"
    traits = Traits(
        "1 forward, 1 back", True, "1 bit a weight", "error chain, f', signs of W", "A + P (A, from a seed)"
    )

    def matrix(self, i: int) -> Tensor:
        """Signs of the weights, sizes of R."""
        return super().matrix(i).abs().mul_(weights_of(self.down[i]).sign())
