"""How well a network does on a data set."""

from __future__ import annotations

from collections.abc import Callable

import torch

from edgepep.datasets import Data
from edgepep.network import Network
from edgepep.rule import Rule


@torch.no_grad()
def evaluate(
    trained: Rule | Network, data: Data, batch_size: int = 1000, between: Callable[[], None] | None = None
) -> float:
    """Accuracy in percent on a data set, in evaluation mode; the mode is put back.

    Args:
        trained: a rule, which knows how its network is to be asked, or a network, of which the largest logit counts.
        data: on the same device.
        batch_size: samples at a time.
        between: called before each batch.

    """
    was_training = trained.training
    trained.eval()
    scores = trained.predict if isinstance(trained, Rule) else trained
    right = torch.zeros((), dtype=torch.int64, device=data.labels.device)
    try:
        for x, target in data.in_order(batch_size):
            if between is not None:
                between()
            right += (scores(x).argmax(1) == target).sum()
    finally:
        trained.train(was_training)
    return 100 * int(right) / len(data)
