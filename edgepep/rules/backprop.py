"""Backpropagation of the error, by autograd: what every other rule is compared with."""

import torch
from torch import Tensor, nn

from edgepep.network import Layer, Network
from edgepep.phases import BACKWARD, FORWARD, phase
from edgepep.rule import Outcome, Rule, Traits


class Backprop(Rule):
    """The exact gradient; through time for spiking neurons, straight through for quantised layers.

    With an in-place updater each weight changes as soon as its gradient is known ("optimizer in backward").
    """

    source = "Rumelhart, Hinton & Williams 1986"
    traits = Traits("1 forward, 1 back", True, "all weights", "error chain, f', W", "A")

    def __init__(self, network: Network, example: Tensor) -> None:
        super().__init__(network, example)
        for layer in network.chain:
            for parameter in layer.learnable():
                parameter.register_post_accumulate_grad_hook(lambda p, layer=layer: _apply(layer, p))

    @torch.enable_grad()
    def learn(self, x: Tensor, target: Tensor) -> Outcome:
        """Run forward, then backward."""
        with phase(FORWARD):
            outcome = Outcome(self.network(x), target)
            loss = outcome.loss
        with phase(BACKWARD):
            loss.backward()
        return Outcome(outcome.logits.detach(), target)


def _apply(layer: Layer, parameter: nn.Parameter) -> None:
    if layer.updater is not None and parameter.grad is not None:
        layer.updater.apply(parameter, parameter.grad)
        parameter.grad = None
