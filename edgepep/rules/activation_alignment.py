"""Activation alignment: the feedback, used upwards, learns to answer as the weights do."""

import torch
from torch import Tensor

from edgepep.network import Layer, Network
from edgepep.rule import Traits, one_of, within
from edgepep.rules._alignment import LearnedFeedback, answer, answer_through, mean_product


class ActivationAlignment(LearnedFeedback):
    """Backpropagation through matrices that answer the layer's input as the weights do: amp and sparse terms.

    With x the layer's activity, y = W x and u = M x:

        M <- M + rate / mean(|x|^2) * mean((y - u)^T x)

    whose fixed point is W on the span of the data, whatever their covariance. With a fixed step the rule diverges as
    soon as the step exceeds 2 over the largest eigenvalue of mean(x^T x); dividing by mean(|x|^2), which is never
    smaller than that eigenvalue, keeps it below for every rate up to 2. The division is ours; `step="fixed"` leaves it
    out, as published.

    Args:
        network: what learns.
        example: one batch of inputs [batch, ...].
        rate: of the step; from 0 to 2 if it is normalised.
        step: "normalised" or "fixed".
        feedback_scale: standard deviation of the first M, in those that the weights have when the rule is made.
        seed: of the first M.

    Raises:
        EdgepepError: if rate is out of range, or step is neither.

    """

    source = "Kunin et al. 2020 (arXiv 2003.01513)"
    traits = Traits(
        "1 forward, 1 back, M up",
        True,
        "its answers",
        "error chain, f', M x",
        "A + P",
    )

    def __init__(
        self,
        network: Network,
        example: Tensor,
        *,
        rate: float = 0.5,
        step: str = "normalised",
        feedback_scale: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(network, example, feedback_scale=feedback_scale, seed=seed)
        one_of("step", step, "normalised", "fixed")
        within("rate", rate, 0.0, 2.0 if step == "normalised" else float("inf"))
        self.rate, self.step = rate, step

    def align(self, i: int, layer: Layer, pre: Tensor) -> None:
        """Compare the two answers, and correct."""
        x, matrix = layer.read_input(pre), self.matrix(i)
        missing = answer(layer, x).sub_(answer_through(layer, x, matrix))
        bound = self._power(x, matrix) if self.step == "normalised" else 1.0
        matrix.add_(mean_product(layer, x, missing).mul_(self.rate / bound))

    @torch.no_grad()
    def risks(self, x: Tensor, target: Tensor) -> list[str]:
        """Also a fixed step beyond the bound under which it is sure to converge."""
        found = super().risks(x, target)
        if self.step == "fixed":
            for i, (layer, activity) in enumerate(zip(self.network.chain, self.network.stream(x), strict=True)):
                if i in self.down:
                    bound = 2 / float(self._power(layer.read_input(activity.pre), self.matrix(i)))
                    if self.rate > bound:
                        said = f"rate is {self.rate:g}, above 2 / mean(|x|^2) = {bound:.2g}"
                        found.append(f"step of {layer.name}: {said}; lower it, or let the step be normalised.")
        return found

    def _power(self, x: Tensor, matrix: Tensor) -> Tensor:
        """Mean square length of what one row of the matrix reads."""
        return x.square().mean() * matrix[0].numel() + 1e-8
