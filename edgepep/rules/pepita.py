"""PEPITA: present the error to perturb the input to modulate activity."""

import math
from collections import deque
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from edgepep.errors import EdgepepError
from edgepep.network import Activity, Layer, Network
from edgepep.rule import Outcome, Rule, output_error, random_projection, survey

Kept = tuple[Tensor | None, Tensor]
"""A layer's presynaptic factor, if it is to be the first pass's, and its answer."""


class Pepita(Rule):
    """Two forward passes, the second on an input modulated by the error; each layer learns from their difference.

    With h_l the activity in the pass on x, g_l in the pass on x - F e, and e = softmax - one-hot of the first pass:

        first and hidden layers:  dW_l = (h_l - g_l) g_(l-1)^T  (g_0 = x - F e);    last layer:  dW_L = e g_(L-1)^T

    averaged over the batch and subtracted. No error is carried backwards and no weight is transported. With the sign
    of Srinivasan et al. 2023, used here, F becomes aligned with the product of the forward weights; the x + F e of
    Dellaferrera & Kreiman 2022 is the same algorithm with F mirrored (`sign=1`).

    Args:
        network: what learns.
        example: one batch of inputs [batch, ...].
        feedback_scale: F is uniform on +-feedback_scale * sqrt(6 / inputs), the authors' 0.05 of He's bound.
        sign: -1 modulates to x - F e, +1 to x + F e.
        output_error: the pass whose error the last layer learns from. The paper's is "first"; the authors' fully
            connected code uses "second".
        presynaptic: the pass whose activity is the presynaptic factor; the paper's is "second".
        conv_reduction: a convolution's update is summed over positions, or divided by their number ("mean") or its
            square root ("sqrt"). "sum" is the gradient's scale; the authors' code takes the mean.
        extra_batch_division: divide a convolution's update by the batch size once more, as the authors' code does.
        seed: of F.

    Raises:
        EdgepepError: if an option is none of its values.

    """

    source = "Dellaferrera & Kreiman 2022, Algorithm 1 (arXiv 2201.11665)"
    feedback: Tensor

    def __init__(
        self,
        network: Network,
        example: Tensor,
        *,
        feedback_scale: float = 0.05,
        sign: Literal[-1, 1] = -1,
        output_error: Literal["first", "second"] = "first",
        presynaptic: Literal["first", "second"] = "second",
        conv_reduction: Literal["sum", "mean", "sqrt"] = "sum",
        extra_batch_division: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(network, example)
        _check("sign", sign, (-1, 1))
        _check("output_error", output_error, ("first", "second"))
        _check("presynaptic", presynaptic, ("first", "second"))
        _check("conv_reduction", conv_reduction, ("sum", "mean", "sqrt"))
        self.output_error, self.presynaptic = output_error, presynaptic
        self.extra_batch_division = extra_batch_division
        self.position_power = {"sum": 0.0, "sqrt": 0.5, "mean": 1.0}[conv_reduction]
        inputs, *_, classes = survey(network, example)
        bound = feedback_scale * math.sqrt(6 / inputs.numel()) * -sign
        self.register_buffer("feedback", random_projection(classes[0], inputs, bound, seed, example))

    @torch.no_grad()
    def learn(self, x: Tensor, target: Tensor) -> Outcome:
        """Run both passes; every layer learns as the second one goes by."""
        start, first, logits = self.first_pass(x)
        error = output_error(logits, target)
        second = self.network.modulated(start, self.feedback, error)
        del start
        *hidden, output = self.network.chain
        for layer in hidden:
            before, answer = next(first)
            pre, _, post = next(second)
            pre = layer.read(pre) if before is None else before
            delta, scale = answer - layer.read(post), self.scale(layer, answer)
            del before, answer, post, _  # what is held while the layer learns is memory
            layer.learn(pre, delta, scale)
            del pre, delta
        g = next(second)
        if self.output_error == "second":
            error = output_error(self.network.readout(g.post), target)
        before, _ = next(first, (None, None)) if self.presynaptic == "first" else (None, None)
        output.learn(output.read(g.pre) if before is None else before, error, 1 / len(error))
        return Outcome(logits, target)

    def first_pass(self, x: Tensor) -> tuple[Activity, Iterator[Kept], Tensor]:
        """The first layer's activity, then what each layer's update needs of this pass, and the logits."""
        stream = self.network.stream(x)
        start = next(stream)
        kept = deque([self.keep(self.network.chain[0], start), *self.keep_others(stream)])
        return start, drain(kept), kept[-1][1]

    def keep_others(self, stream: Iterator[Activity]) -> Iterator[Kept]:
        """What to keep of each layer after the first, as the stream comes to it."""
        for layer in self.network.chain[1:]:
            yield self.keep(layer, next(stream))

    def keep(self, layer: Layer, activity: Activity) -> Kept:
        """What a layer's update needs of its activity in the first pass: presynaptic factor, if from it, and answer."""
        pre = layer.read(activity.pre) if self.presynaptic == "first" else None
        return pre, layer.read(activity.post)

    def scale(self, layer: Layer, answer: Tensor) -> float:
        """Factor of a hidden layer's update, given its answer [batch, channels, *positions]."""
        batch, positions = answer.shape[0], answer.shape[2:].numel()
        extra = batch if self.extra_batch_division and answer.dim() > 2 else 1
        return 1.0 / float(batch * extra * positions**self.position_power)


def drain(kept: deque[Kept]) -> Iterator[Kept]:
    """Hand out in order, holding on to nothing handed out."""
    while kept:
        yield kept.popleft()


def _check(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise EdgepepError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, allowed))}.")
