"""Backpropagation of the error, by autograd: what every other rule is compared with."""

import math

import torch
from torch import Tensor, nn

from edgepep import windows
from edgepep.credit import first_learner
from edgepep.errors import EdgepepError
from edgepep.injection import Inject
from edgepep.layer import Layer
from edgepep.network import Network
from edgepep.phases import AGAIN, BACKWARD, FORWARD, phase
from edgepep.products import as_torch_does
from edgepep.rule import Outcome, Rule, Traits


class Backprop(Rule):
    """The exact gradient; through time for spiking neurons, straight through for quantised layers.

    With an in-place updater each weight changes as soon as its gradient is known ("optimizer in backward").

    Args:
        network: what learns.
        example: one batch of inputs [batch, ...].
        checkpoints: keep only what lies between about sqrt(layers) groups of layers, and run each group again on the
            way back (Chen et al. 2016, arXiv 1604.06174): less memory for one more forward pass.
        truncate: of a spiking network, time steps after which the graph is cut: each window of time has its own readout
            and loss, which counts by its share of time, and memory grows with the window alone. 0 cuts nowhere.

    Raises:
        EdgepepError: if the network cannot run in windows of time, or both options are given.

    """

    source = "Rumelhart, Hinton & Williams 1986"
    traits = Traits("1 forward, 1 back", True, "all weights", "error chain, f', W", "A")
    replayable = True

    def __init__(self, network: Network, example: Tensor, *, checkpoints: bool = False, truncate: int = 0) -> None:
        super().__init__(network, example)
        if truncate:
            windows.refuse_if_impossible(network, truncate)
        if truncate and checkpoints:
            raise EdgepepError(f"truncate is {truncate} and checkpoints is True; one of them at a time.")
        self.checkpoints, self.truncate = checkpoints, truncate
        self._held_back = False
        self._hooked: set[nn.Parameter] = set()

    @torch.enable_grad()
    def learn(self, x: Tensor, target: Tensor) -> Outcome:
        """Run forward, then backward."""
        resting = self._hook()
        for parameter in resting:
            parameter.requires_grad_(False)
        try:
            if self.checkpoints:
                with as_torch_does():  # a group gives the same with a graph as it gave without one
                    return self._in_groups(x, target)
            if self.truncate:
                return self._in_windows(x, target)
            with phase(FORWARD):
                outcome = Outcome(self.network(x), target)
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
                    parameter.register_post_accumulate_grad_hook(lambda p, layer=layer: self._update(layer, p))
        return resting

    def _in_windows(self, x: Tensor, target: Tensor) -> Outcome:
        """Back through one window of time after the other; the weights change at the end."""
        logits: Tensor | None = None
        self._held_back = True
        try:
            for answer, share in windows.readouts(self.network, x, self.truncate, FORWARD):
                with phase(BACKWARD):
                    (Outcome(answer, target).loss * share).backward()
                part = answer.detach() * share
                logits = part if logits is None else logits + part
                del answer
        finally:
            self._held_back = False
        for layer in self.network.chain:
            for parameter in layer.learnable():
                self._update(layer, parameter)
        assert logits is not None  # there is a window
        return Outcome(logits, target)

    def _in_groups(self, x: Tensor, target: Tensor) -> Outcome:
        """Run forward keeping what lies between groups of layers; then each group again, and back through it."""
        count = len(self.network.chain)
        size = max(1, round(math.sqrt(count)))
        groups = [range(start, min(start + size, count)) for start in range(0, count, size)]
        between: list[dict[int, Tensor]] = [{}]
        with torch.no_grad():
            for group in groups[:-1]:
                between.append(self._run(group, x, dict(between[-1]), FORWARD))
        outcome, gradients, lowest = None, dict[int, Tensor](), first_learner(self.network)
        for group in reversed(groups):
            if group.stop <= lowest and outcome is not None:  # nothing below learns
                break
            wanted = group.start > lowest
            given = {i: post.detach().requires_grad_(wanted) for i, post in between.pop().items()}
            posts = self._run(group, x, dict(given), FORWARD if outcome is None else AGAIN)
            if outcome is None:
                outcome = Outcome(self.network.readout(posts[count - 1]), target)
                loss = outcome.loss
                with phase(BACKWARD):
                    loss.backward()
            else:
                with phase(BACKWARD):
                    ways = {i: g for i, g in gradients.items() if posts[i].requires_grad}
                    Inject.apply(len(ways), *(posts[i] for i in ways), *ways.values()).backward()
            del posts
            gradients = {i: post.grad for i, post in given.items() if post.grad is not None}
        assert outcome is not None  # there is a group
        return Outcome(outcome.logits.detach(), target)

    def _run(self, group: range, x: Tensor, posts: dict[int, Tensor], name: str) -> dict[int, Tensor]:
        """Posts alive after a group of layers, given those alive before it."""
        for i in group:
            self.network.run_layer(i, x, posts, name)
        return posts

    def _update(self, layer: Layer, parameter: nn.Parameter) -> None:
        if layer.updater is None:
            layer.refuse_codes(parameter)
        elif parameter.grad is not None and not self._held_back:
            layer.updater.apply(parameter, parameter.grad)
            parameter.grad = None
