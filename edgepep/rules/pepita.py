"""PEPITA: present the error to perturb the input to modulate activity."""

from collections import deque
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from edgepep.children import child
from edgepep.credit import uphill
from edgepep.errors import EdgepepError
from edgepep.feedback import Storage
from edgepep.network import Activity, Layer, Network
from edgepep.rule import Outcome, Rule, Traits, classes_of, one_of, output_error, survey, within
from edgepep.rules._modulation import LayeredFeedback, RandomFeedback, relative
from edgepep.rules._time_local import time_local

MODULATION_BOUND = 0.1
Kept = tuple[Tensor | None, Tensor]
"""A layer's presynaptic factor, if it is to be the first pass's, and its answer."""


class Pepita(Rule):
    """Two forward passes, the second on an input modulated by the error; each layer learns from their difference.

    With h_l the activity in the pass on x, g_l in the pass on x - F e, and e = softmax - one-hot of the first pass:

        first and hidden layers:  dW_l = (h_l - g_l) g_(l-1)^T  (g_0 = x - F e);    last layer:  dW_L = e g_(L-1)^T

    averaged over the batch and subtracted. No error is carried backwards and no weight is transported. With the sign
    of Srinivasan et al. 2023, used here, F becomes aligned with the product of the forward weights; the x + F e of
    Dellaferrera & Kreiman 2022 is the same algorithm with F mirrored (`sign=1`).

    Variants (Srinivasan et al. 2023): "hebbian" replaces the difference by two Hebbian products of opposite sign,

        dW_l = h_l h_(l-1)^T - g_l g_(l-1)^T;    dW_L = y h_(L-1)^T - t g_(L-1)^T

    and "time_local" applies each product right after its own pass, the second pass running on the weights that the
    first has changed, so that no activity is kept between the passes.

    Args:
        network: what learns.
        example: one batch of inputs [batch, ...].
        variant: "standard", "hebbian" or "time_local"; the last needs an in-place updater.
        feedback: "random": F fixed; "mirrored": a product of one matrix a layer, which learns from noise to mirror the
            weights; "product": the product of the weights themselves (weight transport).
        feedback_scale: F is uniform on +-feedback_scale * sqrt(6 / inputs), the authors' 0.05 of He's bound; the
            others are kept at the same standard deviation.
        strength: of the modulation, |F e| / |x|: on its first batch the rule scales F to it, once; 0 leaves F as it is.
            The window in which learning is both fast and stable is narrow, and depends on data and network.
            Feedback that changes is kept at the standard deviation that it then has.
        limit: of |F e| / |x| in every batch; where it would be more, F e is scaled down to it. 0 sets none.
        storage: how random F is kept: "float", "int8", "sign", or not at all: "seed".
        sign: -1 modulates to x - F e, +1 to x + F e.
        output_error: the pass whose error the last layer learns from. The paper's is "first"; the authors' fully
            connected code uses "second".
        presynaptic: the pass whose activity is the presynaptic factor; the paper's is "second".
        conv_reduction: a convolution's update is summed over positions, or divided by their number ("mean") or its
            square root ("sqrt"). "sum" is the gradient's scale; the authors' code takes the mean.
        extra_batch_division: divide a convolution's update by the batch size once more, as the authors' code does.
        adversarial: also move the input by this much against the sign of the loss's gradient in it (Lee, Yang & Park
            2024, ICAIIC, who combine an adversarial perturbation with PEPITA's). That gradient takes a backward pass
            through the weights. The side is the one on which h - g keeps its meaning, downhill.
        mirror_rate: share of the new in a mirroring matrix at each of its steps; more at first: what is new to a mean.
        mirror_every: steps of training between two of mirroring.
        seed: of F.

    Raises:
        EdgepepError: if an option is none of its values, or options exclude each other.

    """

    source = "Dellaferrera & Kreiman 2022, Algorithm 1 (arXiv 2201.11665)"
    traits = Traits("2 forward", False, "nothing", "output error, in the input", "A + F (A, from a seed)")
    projection: RandomFeedback | LayeredFeedback = child("projection")

    def __init__(
        self,
        network: Network,
        example: Tensor,
        *,
        variant: str = "standard",
        feedback: str = "random",
        feedback_scale: float = 0.05,
        strength: float = 0.0,
        limit: float = 0.0,
        storage: Storage = "float",
        sign: int = -1,
        output_error: str = "first",
        presynaptic: str = "second",
        conv_reduction: str = "sum",
        extra_batch_division: bool = False,
        adversarial: float = 0.0,
        mirror_rate: float = 0.01,
        mirror_every: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(network, example)
        if not example.is_floating_point():
            raise EdgepepError(f"the input is {example.dtype}; the rule changes inputs, and needs floating-point ones.")
        one_of("variant", variant, "standard", "hebbian", "time_local")
        one_of("feedback", feedback, "random", "mirrored", "product")
        one_of("sign", sign, -1, 1)
        one_of("output_error", output_error, "first", "second")
        one_of("presynaptic", presynaptic, "first", "second")
        one_of("conv_reduction", conv_reduction, "sum", "mean", "sqrt")
        within("adversarial", adversarial, 0.0, float("inf"))
        within("strength", strength, 0.0, 1.0)
        within("limit", limit, 0.0, 1.0)
        within("mirror_rate", mirror_rate, 0.0, 1.0)
        within("mirror_every", mirror_every, 1, float("inf"))
        if variant != "standard" and (output_error, presynaptic) != ("first", "second"):
            raise EdgepepError(f"variant {variant!r} has its own factors; leave output_error and presynaptic alone.")
        if variant != "standard" and type(network.chain[-1].neurons) is not nn.Identity:
            raise EdgepepError(f"variant {variant!r} is for an output layer whose answer is its current: logits.")
        if feedback != "random" and storage != "float":
            raise EdgepepError(f"storage is {storage!r}, but feedback {feedback!r} changes, and is kept in floats.")
        self.limit, self.reads_weights = limit, bool(adversarial) or feedback != "random"
        self.replayable = feedback != "mirrored"  # which learns at every so many steps
        self.variant, self.output_error, self.presynaptic = variant, output_error, presynaptic
        self.extra_batch_division, self.adversarial = extra_batch_division, adversarial
        self.position_power = {"sum": 0.0, "sqrt": 0.5, "mean": 1.0}[conv_reduction]
        if adversarial:
            self.traits = self.traits._replace(backward=True, transport="all weights", non_local="error chain, f', W")
        elif feedback == "product":
            self.traits = self.traits._replace(transport="their product")
        inputs, *_, classes = survey(network, example)
        if feedback == "random":
            self.projection = RandomFeedback(inputs, classes[0], feedback_scale, sign, seed, example, storage)
        else:
            self.projection = LayeredFeedback(
                network, feedback_scale, sign, seed, feedback == "mirrored", mirror_rate, mirror_every
            )
        self.projection.want(strength)

    @property
    def feedback(self) -> Tensor:
        """F [classes, *input], as x - F e takes it."""
        values: Tensor = self.projection()
        return values

    @torch.no_grad()
    def learn(self, x: Tensor, target: Tensor) -> Outcome:
        """Run both passes; every layer learns as the second one goes by."""
        self.projection.learn()
        if self.projection.wanted:
            self.projection.reach(lambda: self.modulation(x, target))
        if self.variant == "time_local":
            return time_local(self, x, target)
        start, first, logits = self.first_pass(x)
        error = output_error(logits, target)
        second = self.second_pass(x, target, start, error)
        del start
        *hidden, output = self.network.chain
        for layer in hidden:
            before, answer = next(first)
            pre, _, post = next(second)
            del _
            pre, delta = self.factors(layer, before, answer, layer.read(pre), layer.read(post))
            del before, post  # what is held while the layer learns is memory
            scale = self.scale(layer, answer)
            del answer
            layer.learn(pre, delta, scale)
            del pre, delta
        g = next(second)
        pre = output.read(g.pre)
        if self.output_error == "second":
            error = output_error(self.network.readout(g.post), target)
        before, _ = (
            next(first, (None, None)) if self.presynaptic == "first" or self.variant == "hebbian" else (None, None)
        )
        if before is not None:
            label = classes_of(target, logits.shape[1], logits.dtype)
            hebbian = torch.cat([before, pre]), torch.cat([logits.softmax(1), -label])
            pre, error = hebbian if self.variant == "hebbian" else (before, error)
        if output.over_time or type(output.neurons) is not nn.Identity:  # an answer that is not its current
            pre, error = g.pre, output.error_at_current(output.kept(g), error)
        output.learn(pre, error, 1 / target.shape[0])
        return Outcome(logits, target)

    def factors(self, layer: Layer, before: Tensor | None, h: Tensor, pre: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """Presynaptic and postsynaptic factors of a hidden layer's update."""
        if before is None:
            return pre, h.sub_(g) if self.owns(layer, h) else h - g
        if self.variant == "hebbian":
            return torch.cat([before, pre]), torch.cat([h, -g])
        return before, h - g

    def owns(self, layer: Layer, h: Tensor) -> bool:
        """Whether nobody else needs a layer's answer any more once its update is made."""
        return not layer.over_time and not h.requires_grad and h._base is None

    def second_pass(self, x: Tensor, target: Tensor, start: Activity, error: Tensor) -> Iterator[Activity]:
        """The modulated pass, layer by layer."""
        feedback = self.feedback
        if self.limit:
            error = error * (self.limit / relative(self.network, start.pre, error, feedback)).clamp_max(1.0)
        shift = self.adversarial * uphill(self.network, x, target).sign_() if self.adversarial else None
        return self.network.modulated(start, feedback, error, fixed=self.projection.fixed, shift=shift)

    def first_pass(self, x: Tensor) -> tuple[Activity, Iterator[Kept], Tensor]:
        """The first layer's activity, then what each layer's update needs of this pass, and the logits."""
        stream = self.network.stream(x, currents=self.currents)
        start = next(stream)
        kept = deque([self.keep(self.network.chain[0], start), *self.keep_others(stream)])
        return start, drain(kept), kept[-1][1]

    @property
    def currents(self) -> Literal["all", "first"]:
        """Whose currents at every time step the rule needs."""
        return "all" if self.adversarial or self.network.chain[-1].over_time else "first"

    def keep_others(self, stream: Iterator[Activity]) -> Iterator[Kept]:
        """What to keep of each layer after the first, as the stream comes to it."""
        for layer in self.network.chain[1:]:
            yield self.keep(layer, next(stream))

    def keep(self, layer: Layer, activity: Activity) -> Kept:
        """What a layer's update needs of its activity in the first pass: presynaptic factor, if from it, and answer."""
        first = self.presynaptic == "first" or self.variant == "hebbian"
        return layer.read(activity.pre) if first else None, layer.read(activity.post)

    def scale(self, layer: Layer, answer: Tensor) -> float:
        """Factor of a hidden layer's update, given its answer [batch, channels, *positions]."""
        batch, positions = answer.shape[0], answer.shape[2:].numel()
        extra = batch if self.extra_batch_division and answer.dim() > 2 else 1
        factor: float = 1.0 / (batch * extra * positions**self.position_power)
        return factor

    @torch.no_grad()
    def modulation(self, x: Tensor, target: Tensor) -> float:
        """|F e| / |x|, over the batch."""
        pre = next(self.network.stream(x)).pre
        return float(relative(self.network, pre, output_error(self.network(x), target), self.feedback))

    @torch.no_grad()
    def risks(self, x: Tensor, target: Tensor) -> list[str]:
        """Too strong a modulation: beyond a tenth of the input, learning is known to collapse."""
        ratio = self.modulation(x, target)
        if ratio <= MODULATION_BOUND:
            return []
        return [f"modulation: |F e| / |x| is {ratio:.2g}, above {MODULATION_BOUND}; lower feedback_scale."]


def drain(kept: deque[Kept]) -> Iterator[Kept]:
    """Hand out in order, holding on to nothing handed out."""
    while kept:
        yield kept.popleft()
