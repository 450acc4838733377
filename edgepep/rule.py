"""What a learning rule is: something to call in place of loss.backward()."""

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from edgepep.errors import EdgepepError
from edgepep.network import Network
from edgepep.phases import STEP, phase


class Outcome(NamedTuple):
    """What one step says of itself: logits [batch, classes] before the update, and the targets they were for."""

    logits: Tensor
    target: Tensor

    @property
    def loss(self) -> Tensor:
        """Mean cross-entropy of the batch; computed when asked for."""
        return cross_entropy(self.logits, self.target)


class Traits(NamedTuple):
    """What a rule asks of the machine or the brain that runs it; the table of rules is made of these."""

    passes: str = "not stated"
    """Passes over the network in one step."""
    backward: bool | None = None
    """Whether an error is carried backwards through the layers, one after the other."""
    transport: str = "not stated"
    """What of the forward weights the credit needs to know."""
    non_local: str = "not stated"
    """What a layer's update uses that is not at hand in the layer."""
    stores: str = "not stated"
    """What is kept beyond the weights; A: all activities, A2: the largest two neighbours', P: one value a weight."""


class Rule(nn.Module):
    """A learning rule for one network; its buffers are the rule's feedback.

    Calling it on a batch runs one training step up to the update: it fills in `.grad`, or, where the network's layers
    have an in-place updater, changes the weights.

    Args:
        network: what learns.
        example: one batch of inputs [batch, ...]; streamed once, it sizes every feedback.

    """

    source: ClassVar[str] = ""
    """Where the rule was published."""
    traits: Traits = Traits()
    """Of the rule with its default options; an option that changes them says so in the rule that is made."""

    reads_weights = True
    """Whether it may know forward weights otherwise than by what the synapses answer."""

    replayable = False
    """Whether every step, after a few first ones, does the same work on the same tensors, remembers nothing but in
    tensors that it changes in place, and waits for no number of the device: only then is it recorded on a GPU. A rule
    that does so says it."""

    def __init__(self, network: Network, example: Tensor) -> None:
        super().__init__()
        self.network = network
        self.samples: Tensor | None = None

    def forward(self, x: Tensor, target: Tensor, samples: Tensor | None = None) -> Outcome:
        """Learn from inputs [batch, ...] and class indices [batch].

        Args:
            x: inputs.
            target: class indices.
            samples: which samples of the training set these are, [batch]; only rules that remember samples need it.

        Raises:
            EdgepepError: if the targets are not class indices, one a sample.

        """
        if (
            target.dim() != 1
            or target.is_floating_point()
            or target.dtype == torch.bool
            or target.shape[0] != x.shape[0]
        ):
            raise EdgepepError(
                f"targets are {target.dtype} of shape {list(target.shape)}; {type(self).__name__} learns from class "
                f"indices of shape [{x.shape[0]}], one a sample."
            )
        target = target if target.dtype == torch.int64 else target.long()
        self.network.renew_noise()
        if samples is not self.samples:  # setting what a module holds takes microseconds
            self.samples = samples
        with phase(STEP):
            return self.learn(x, target)

    def learn(self, x: Tensor, target: Tensor) -> Outcome:
        """Do one step; each rule writes this."""
        raise EdgepepError(f"the rule {type(self).__name__} defines no step: write its `learn`.")

    def predict(self, x: Tensor) -> Tensor:
        """Scores [batch, classes] of inputs, the highest for the class that the trained network takes them for."""
        scores: Tensor = self.network(x)
        return scores

    @property
    def asks_the_network(self) -> bool:
        """Whether `predict` is the network's own answer, which is what an exported file gives."""
        return type(self).predict is Rule.predict

    def risks(self, x: Tensor, target: Tensor) -> list[str]:
        """What is likely to make training collapse, each as "what: why and what to do"."""
        return []

    def modulation(self, x: Tensor, target: Tensor) -> float | None:
        """Length of what is added to the input, in lengths of the input; None for a rule that adds nothing."""
        return None

    def feedback_matrices(self) -> dict[int, Tensor]:
        """Return the matrix through which each layer's error goes down, by the layer's index, if there is any."""
        return {}


@torch.no_grad()
def survey(network: Network, example: Tensor) -> list[torch.Size]:
    """Shapes of what one sample's activities look like: the first pre, then every post without batch and time."""
    shapes: list[torch.Size] = []
    was_training = network.training
    network.eval()
    for layer, activity in zip(network.chain, network.stream(example), strict=True):
        if not shapes:
            shapes.append(activity.pre.shape[2 if layer.over_time else 1 :])
        shapes.append(layer.read(activity.post).shape[1:])
    network.train(was_training)
    return shapes


def output_error(logits: Tensor, target: Tensor) -> Tensor:
    """Gradient of each sample's cross-entropy in its logits: softmax minus one-hot, both [batch, classes]."""
    minus_one = logits.new_full((target.shape[0], 1), -1.0)
    return logits.softmax(1).scatter_add_(1, target.unsqueeze(1), minus_one)


def classes_of(target: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """One-hot rows [batch, classes] of class indices."""
    return torch.zeros(target.shape[0], classes, dtype=dtype, device=target.device).scatter_(
        1, target.unsqueeze(1), 1.0
    )


def like(network: Network) -> Tensor:
    """A tensor of the device and dtype that a network computes in."""
    return next(p for p in network.parameters() if p.is_floating_point()).detach()


def one_of(name: str, value: object, *allowed: object) -> None:
    """Raise EdgepepError unless an option has one of its values."""
    if value not in allowed:
        raise EdgepepError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, allowed))}.")


def within(name: str, value: float, low: float, high: float) -> None:
    """Raise EdgepepError unless low <= an option <= high."""
    if not low <= value <= high:
        raise EdgepepError(f"{name} is {value}; it must be from {low:g} to {high:g}.")
