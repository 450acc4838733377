"""What projects the error to the input: fixed random feedback, or the product of one matrix a layer."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from edgepep import noise
from edgepep.credit import weights_of
from edgepep.errors import EdgepepError
from edgepep.feedback import Feedback, Storage
from edgepep.network import Layer, Network


class Projection(nn.Module, ABC):
    """What projects errors to the input; asked to, it takes its strength from the first batch, once and for good."""

    reached: Tensor | None
    wanted = 0.0

    def learn(self) -> None:
        """Nothing, if it is fixed."""

    @abstractmethod
    def rescale(self, factor: float) -> None:
        """Multiply all values by a factor, for good."""

    def want(self, strength: float) -> None:
        """Ask for a strength of the modulation, |F e| / |x|, to be reached on the first batch; 0 asks for nothing."""
        self.wanted = strength
        self.register_buffer("reached", torch.zeros((), dtype=torch.bool) if strength else None)

    def reach(self, measure: Callable[[], float]) -> None:
        """Scale all values, for good, so that the strength that is measured becomes the one that is wanted.

        Raises:
            EdgepepError: in a graph that is traced, which has no number to measure.

        """
        if torch.compiler.is_exporting():
            raise EdgepepError(
                "F takes its strength from the first batch: let the rule learn from one, then export it."
            )
        found = measure()
        if found > 0 and self.reached is not None:
            self.rescale(self.wanted / found)
            self.reached.fill_(True)
            self.wanted = 0.0

    def _load_from_state_dict(self, *given: Any) -> None:
        super()._load_from_state_dict(*given)
        if self.reached is not None and self.reached:
            self.wanted = 0.0


class RandomFeedback(Feedback, Projection):
    """F [classes, *input], uniform on +-feedback_scale * sqrt(6 / inputs)."""

    def __init__(
        self, shape: torch.Size, classes: int, scale: float, sign: int, seed: int, like: Tensor, storage: Storage
    ) -> None:
        bound = scale * math.sqrt(6 / shape.numel()) * -sign
        super().__init__((classes, *shape), bound, seed, 0, like, storage)


def relative(network: Network, pre: Tensor, error: Tensor, feedback: Tensor) -> Tensor:
    """|F e| / |x| over the batch and time, for the first layer's input [batch, ...] or [time, batch, ...]."""
    over_time = network.chain[0].over_time
    constant = over_time and pre.stride(0) == 0
    steps = len(pre) if over_time and not constant else 1
    length = (pre[0] if constant else pre).norm() / steps**0.5
    ratio: Tensor = (error @ feedback.flatten(1)).norm() / length.clamp_min(1e-30)
    return ratio


class LayeredFeedback(Projection):
    """F as the product M_L ... M_1 of one matrix a layer, of the shape of its weights, at a constant strength.

    The matrices are the weights themselves ("product"), or mirror them, learned from noise as by Akrout et al. 2019
    ("mirrored"). F then points along the product of the forward weights, which asks for x - F e; for x + F e its sign
    is turned. Its standard deviation is kept at feedback_scale * sqrt(2 / inputs), that of the random feedback, or at
    what the first batch asked for, so that the strength of the modulation does not follow the weights.

    Raises:
        EdgepepError: if the network is not a plain row of linear layers.

    """

    fixed = False
    step: Tensor
    deviation: Tensor

    def __init__(
        self, network: Network, scale: float, sign: int, seed: int, mirrored: bool, rate: float, every: int
    ) -> None:
        super().__init__()
        self.layers = network.chain
        for i, layer in enumerate(self.layers):
            if not isinstance(layer.synapses, nn.Linear) or network.sources[i] not in ((), (i - 1,)):
                raise EdgepepError(
                    f"feedback that follows the weights needs linear layers in a row; layer {i} has "
                    f"{type(layer.synapses).__name__} synapses and reads {list(network.sources[i])}."
                )
        self.seed, self.rate, self.every = seed, rate, every
        self.register_buffer("step", torch.zeros((), dtype=torch.int32))
        first = weights_of(self.layers[0])
        self.register_buffer("deviation", first.new_tensor(-sign * scale * math.sqrt(2 / first.shape[1])))
        self.matrices = nn.ModuleList()
        for i, layer in enumerate(self.layers if mirrored else ()):
            weight = weights_of(layer)
            self.matrices.append(Feedback(weight.shape, math.sqrt(3 / weight.shape[1]), seed, i + 1, weight))

    def forward(self) -> Tensor:
        """F [classes, *input]."""
        chain = [m() for m in self.matrices] if len(self.matrices) else [weights_of(layer) for layer in self.layers]
        product = chain[-1]
        for matrix in reversed(chain[:-1]):
            product = product @ matrix
        return product * (self.deviation / product.std().clamp_min(1e-12))

    @torch.no_grad()
    def rescale(self, factor: float) -> None:
        """Multiply the standard deviation by a factor, for good."""
        self.deviation.mul_(factor)

    def learn(self) -> None:
        """Mirror the weights a little, if it is time to."""
        if not len(self.matrices):
            return
        self.step += 1
        if int(self.step) % self.every:
            return
        rate = max(self.rate, self.every / int(self.step))  # at first the mean of all that was seen
        for i, (layer, matrix) in enumerate(zip(self.layers, self.matrices, strict=True)):
            self._mirror(i, layer, matrix(), rate)

    def _mirror(self, i: int, layer: Layer, matrix: Tensor, rate: float) -> None:
        key = noise.key(self.seed, i, self.step, 2, device=matrix.device)
        r = noise.uniform((64, matrix.shape[1]), 3**0.5, key).to(matrix.dtype)
        matrix.addmm_((r @ weights_of(layer).t()).t(), r, beta=1 - rate, alpha=rate / r.shape[0])
