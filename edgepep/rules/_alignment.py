"""Feedback that learns to agree with the weights: what the rules of Akrout et al. and Kunin et al. are made of."""

from torch import Tensor

from edgepep import noise
from edgepep.credit import weights_of
from edgepep.local import dense_gradient, input_gradient, linear_part, respond, weight_gradient
from edgepep.network import Layer
from edgepep.rules.feedback_alignment import FeedbackAlignment

GROWTH_BOUND = 3.0
"""Of |M| / |W|: where the fixed point is the weights, more means that M runs away."""


class LearnedFeedback(FeedbackAlignment):
    """Backpropagation through matrices that learn by a local rule of their own; each rule writes `align`.

    Kunin et al. 2020 name the terms of the matrices' loss, for y = W x the layer's linear answer to an input x, means
    over the batch (and a convolution's positions); their gradients in M, up to sign:

        amp: y^T x;    null: y^T (y M), through the reconstruction y M of x;    decay: M
        sparse: (x M^T)^T x;    self: W
    """

    def white_noise(self, i: int, pre: Tensor, step: Tensor) -> Tensor:
        """Zero-mean, unit-variance noise [batch, ...] of the shape of one pre, drawn for this step."""
        shape = pre.shape[1:] if self.network.chain[i].over_time else pre.shape
        key = noise.key(self.seed, i, step, 1, device=pre.device)
        return noise.uniform(shape, 3**0.5, key).to(pre.dtype)

    def risks(self, x: Tensor, target: Tensor) -> list[str]:
        """Matrices that outgrow the weights: the errors below grow with them, and learning collapses."""
        found = []
        for i, matrix in self.feedback_matrices().items():
            layer = self.down[i]
            ratio = float(matrix.norm() / weights_of(layer).norm().clamp_min(1e-30))
            if not ratio <= GROWTH_BOUND:
                found.append(
                    f"feedback of {layer.name}: |M| / |W| is {ratio:.2g}, above {GROWTH_BOUND:g}; lower the learning "
                    "rate, or raise the feedback's decay."
                )
        return found


def mean_product(layer: Layer, x: Tensor, y: Tensor) -> Tensor:
    """Mean over batch and positions of y^T x, of the shape of the weights."""
    product = sum_product(layer, x, y)
    return product.mul_(len(product) / y.numel())


def sum_product(layer: Layer, x: Tensor, y: Tensor) -> Tensor:
    """Sum over batch and positions of y^T x, of the shape of the weights."""
    return dense_gradient(weight_gradient(layer.synapses, x, y)["weight"])


def answer(layer: Layer, x: Tensor) -> Tensor:
    """Linear answer of the synapses, without the bias."""
    return linear_part(layer.synapses, x)


def reconstruction(layer: Layer, x: Tensor, y: Tensor, matrix: Tensor) -> Tensor:
    """What y sends down through a matrix."""
    return input_gradient(layer.synapses, x, y, matrix)


def answer_through(layer: Layer, x: Tensor, matrix: Tensor) -> Tensor:
    """What x sends up through a matrix."""
    return respond(layer.synapses, x, matrix)
