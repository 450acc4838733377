"""What a learning rule is: something to call in place of loss.backward()."""

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from edgepep import noise
from edgepep.errors import EdgepepError
from edgepep.network import Network


class Outcome(NamedTuple):
    """What one step says of itself: logits [batch, classes] before the update, and the targets they were for."""

    logits: Tensor
    target: Tensor

    @property
    def loss(self) -> Tensor:
        """Mean cross-entropy of the batch; computed when asked for."""
        return cross_entropy(self.logits, self.target)


class Rule(nn.Module):
    """A learning rule for one network; its buffers are the rule's fixed feedback.

    Calling it on a batch runs one training step up to the update: it fills in `.grad`, or, where the network's layers
    have an in-place updater, changes the weights.

    Args:
        network: what learns.
        example: one batch of inputs [batch, ...]; streamed once, it sizes every feedback.

    """

    source: ClassVar[str] = ""
    """Where the rule was published."""

    def __init__(self, network: Network, example: Tensor) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, target: Tensor) -> Outcome:
        """Learn from inputs [batch, ...] and class indices [batch]."""
        self.network.renew_noise()
        return self.learn(x, target)

    def learn(self, x: Tensor, target: Tensor) -> Outcome:
        """Do one step; each rule writes this."""
        raise EdgepepError(f"the rule {type(self).__name__} defines no step: write its `learn`.")


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
    minus_one = logits.new_full((len(target), 1), -1.0)
    return logits.softmax(1).scatter_add_(1, target.unsqueeze(1), minus_one)


def random_projection(rows: int, shape: torch.Size, bound: float, seed: int, example: Tensor) -> Tensor:
    """Fixed feedback [rows, *shape], uniform on [-bound, bound); the same for a seed on every device."""
    key = noise.key(seed, 0xF, device=example.device)
    return noise.uniform((rows, *shape), bound, key).to(example.dtype)
