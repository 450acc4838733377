"""Backpropagation of the error, by autograd: what every other rule is compared with."""

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from edgepep import phases
from edgepep.layer import Layer
from edgepep.network import Network
from edgepep.phases import AGAIN, BACKWARD, FORWARD, phase
from edgepep.rule import Outcome, Rule, Traits


class Backprop(Rule):
    """The exact gradient; through time for spiking neurons, straight through for quantised layers.

    With an in-place updater each weight changes as soon as its gradient is known ("optimizer in backward").

    Args:
        network: what learns.
        example: one batch of inputs [batch, ...].
        checkpoints: keep only what lies between about sqrt(layers) groups of layers, and run each group again on the
            way back (Chen et al. 2016, arXiv 1604.06174): less memory for one more forward pass.

    """

    source = "Rumelhart, Hinton & Williams 1986"
    traits = Traits("1 forward, 1 back", True, "all weights", "error chain, f', W", "A")

    def __init__(self, network: Network, example: Tensor, *, checkpoints: bool = False) -> None:
        super().__init__(network, example)
        self.checkpoints = checkpoints
        self._hooked: set[nn.Parameter] = set()

    @torch.enable_grad()
    def learn(self, x: Tensor, target: Tensor) -> Outcome:
        """Run forward, then backward."""
        resting = self._hook()
        for parameter in resting:
            parameter.requires_grad_(False)
        try:
            with phase(FORWARD):
                logits = self._in_groups(x) if self.checkpoints else self.network(x)
                outcome = Outcome(logits, target)
                loss = outcome.loss
            with phase(BACKWARD):
                loss.backward()
        finally:
            for parameter in resting:
                parameter.requires_grad_(True)
        return Outcome(outcome.logits.detach(), target)

    def _hook(self) -> list[nn.Parameter]:
        """Let every parameter that learns be updated as its gradient arises; return those of layers that rest."""
        resting = []
        for layer in self.network.chain:
            if layer.resting:
                resting += [p for p in layer.parameters() if p.requires_grad]
                continue
            for parameter in layer.learnable():
                if parameter not in self._hooked:
                    self._hooked.add(parameter)
                    parameter.register_post_accumulate_grad_hook(lambda p, layer=layer: _apply(layer, p))
        return resting

    def _in_groups(self, x: Tensor) -> Tensor:
        """Logits, keeping the activities between groups of layers only."""
        count = len(self.network.chain)
        size = max(1, round(math.sqrt(count)))
        alive: dict[int, Tensor] = {}
        for start in range(0, count, size):
            stop = min(start + size, count)
            names = tuple(alive)

            def run(
                *given: Tensor, start: int = start, stop: int = stop, names: tuple[int, ...] = names
            ) -> dict[int, Tensor]:
                again = phases.current() == BACKWARD
                posts = dict(zip(names, given, strict=True))
                for i in range(start, stop):
                    self.network.run_layer(i, x, posts, AGAIN if again else FORWARD)
                return posts

            if stop == count:  # needed at once: keeping it costs nothing more
                alive = run(*alive.values())
            else:
                alive = checkpoint(run, *alive.values(), use_reentrant=False, preserve_rng_state=False)
        return self.network.readout(alive[count - 1])

    def _group(self, x: Tensor, names: tuple[int, ...], group: range, *given: Tensor) -> dict[int, Tensor]:
        """Posts alive after a group of layers, given those alive before it."""
        again = phases.current() == BACKWARD
        posts = dict(zip(names, given, strict=True))
        for i in group:
            self.network.run_layer(i, x, posts, AGAIN if again else FORWARD)
        return posts


def _apply(layer: Layer, parameter: nn.Parameter) -> None:
    if layer.updater is not None and parameter.grad is not None:
        layer.updater.apply(parameter, parameter.grad)
        parameter.grad = None
