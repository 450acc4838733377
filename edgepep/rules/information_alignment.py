"""Information alignment: the feedback learns to reconstruct each layer's input from its answer."""

import torch
from torch import Tensor

from edgepep.network import Layer, Network
from edgepep.rule import Traits, one_of, within
from edgepep.rules._alignment import LearnedFeedback, answer, mean_product, reconstruction


class InformationAlignment(LearnedFeedback):
    """Backpropagation through matrices that learn to decode: amp, null and decay terms.

    With x the layer's input (white noise, or its activity) and y = W x, G = mean(y^T y):

        M <- M + rate / mean(|y|^2) * (amp * mean(y^T x) - null * mean(y^T (y M)) - decay * M)

    whose fixed point is the ridge regression (null G + decay 1)^-1 amp mean(y^T x): with amp = null, a linear
    auto-encoder's decoder. The null term keeps M from growing without bound, at the price that M tends to the weights'
    pseudo-inverse rather than to the weights. The division by mean(|y|^2) keeps the step within the bound at which it
    would diverge; it is ours, one number a layer.

    Args:
        network: what learns.
        example: one batch of inputs [batch, ...].
        rate: of the step, below 2.
        amp: weight of the amp term.
        null: weight of the null term.
        decay: weight of the decay term.
        input: "noise" or "activity".
        feedback_scale: standard deviation of the first M, in those that the weights have when the rule is made.
        seed: of the first M and of the noise.

    Raises:
        EdgepepError: if an option is none of its values.

    """

    source = "Kunin et al. 2020 (arXiv 2003.01513)"
    traits = Traits("1 forward, 1 back, noise and back", True, "nothing", "error chain, f'", "A + P")
    step: Tensor

    def __init__(
        self,
        network: Network,
        example: Tensor,
        *,
        rate: float = 0.5,
        amp: float = 1.0,
        null: float = 1.0,
        decay: float = 0.5,
        input: str = "noise",
        feedback_scale: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(network, example, feedback_scale=feedback_scale, seed=seed)
        within("rate", rate, 0.0, 2.0)
        one_of("input", input, "noise", "activity")
        self.rate, self.amp, self.null, self.decay, self.input = rate, amp, null, decay, input
        self.register_buffer("step", torch.zeros((), dtype=torch.int32))

    def begin(self) -> None:
        """Go on to the next noise."""
        self.step += 1

    def align(self, i: int, layer: Layer, pre: Tensor) -> None:
        """Reconstruct once, and correct."""
        x = self.white_noise(i, pre, self.step) if self.input == "noise" else layer.read_input(pre)
        y, matrix = answer(layer, x), self.matrix(i)
        change = mean_product(layer, x, y).mul_(self.amp)
        change.sub_(mean_product(layer, reconstruction(layer, x, y, matrix), y), alpha=self.null)
        change.sub_(matrix, alpha=self.decay)
        power = y.square().mean() * len(matrix) + self.decay
        matrix.add_(change.mul_(self.rate / power))
