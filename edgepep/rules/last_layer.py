"""The last layers alone, by exact gradient: the control between frozen hidden layers and backpropagation."""

import torch
from torch import Tensor

from edgepep.credit import remember, walk_back, weights_of
from edgepep.errors import EdgepepError
from edgepep.local import transports
from edgepep.network import Network
from edgepep.rule import Outcome, Rule, Traits, output_error


class LastLayer(Rule):
    """Only the last layers learn, by their exact gradient; what lies before them stays random.

    With one layer it is the control of frozen hidden layers. With as many as there are fully connected layers it is
    the "random convolutions" row of the published tables, which training the convolutions too has to beat.

    Args:
        network: what learns.
        example: one batch of inputs [batch, ...].
        layers: how many learn, counted from the output.

    Raises:
        EdgepepError: if there are fewer layers than that.

    """

    source = "control"
    traits = Traits("1 forward", False, "nothing", "nothing", "A2")
    replayable = True

    def __init__(self, network: Network, example: Tensor, *, layers: int = 1) -> None:
        super().__init__(network, example)
        weighted = [i for i, layer in enumerate(network.chain) if transports(layer.synapses)]
        if not 1 <= layers <= len(weighted):
            raise EdgepepError(f"layers is {layers}; the network has {len(weighted)} with weights.")
        self.lowest = weighted[-layers]
        if layers > 1:
            self.traits = Traits("1 forward, back in part", True, "those that learn", "error chain, f', W", "A in part")

    @torch.no_grad()
    def learn(self, x: Tensor, target: Tensor) -> Outcome:
        """Run forward, and back as far as the layers that learn."""
        memories, logits = remember(self.network, x, self.lowest)
        for i, pre, delta in walk_back(
            self.network, memories, output_error(logits, target), self._weights, self.lowest
        ):
            self.network.chain[i].learn(pre, delta, 1 / target.shape[0])
        return Outcome(logits, target)

    def _weights(self, i: int) -> Tensor:
        return weights_of(self.network.chain[i])
