"""Leaky integrate-and-fire neurons that hear each other's last spikes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from edgepep.errors import EdgepepError
from edgepep.local import Gradient, weight_gradient
from edgepep.neurons.population import Spiking, State


class OneToOne(nn.Module):
    """Each neuron's own last spike times a weight: one weight, or one a neuron.

    Args:
        weight: a number or a tensor that broadcasts over [batch, ...].

    """

    def __init__(self, weight: float | Tensor) -> None:
        super().__init__()
        given = weight if isinstance(weight, nn.Parameter) else nn.Parameter(torch.as_tensor(weight).clone())
        self.weight = given

    def forward(self, x: Tensor) -> Tensor:
        """From and to [batch, ...]."""
        return x * self.weight


@weight_gradient.register
def _(synapses: OneToOne, pre: Tensor, delta: Tensor) -> dict[str, Gradient]:
    return {"weight": (pre * delta).sum_to_size(synapses.weight.shape)}


class RLeaky(Spiking):
    """Recurrent leaky integrate-and-fire neurons: snnTorch's `RLeaky`, spike for spike.

        u[t] = beta u[t-1] + I[t] + V s[t-1] - threshold r[t]

    The recurrent weights learn. Rules that carry an error back through the neurons give them its exact gradient; under
    the others they are synapses like any: their input is what they were given over time, on average, and the layer's
    difference is their error.

    Args:
        beta: share of the potential that is left after a step, in [0, 1].
        recurrent: a module with a local update, from and to [batch, ...]: Linear, Conv2d, or a number for one-to-one
            connections of that weight.
        threshold: potential above which a neuron fires, > 0.
        learn_beta: whether beta learns.
        **options: of every spiking population; see `Spiking`.

    Raises:
        EdgepepError: if a value is out of range, or the recurrent module has no local update.

    """

    states = 2
    beta: float | Tensor

    def __init__(
        self,
        beta: float | Tensor = 0.9,
        recurrent: nn.Module | float = 1.0,
        threshold: float | Tensor = 1.0,
        *,
        learn_beta: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(threshold, **options)
        self.hold("beta", beta, 0.0, 1.0, learn_beta)
        self.recurrent = recurrent if isinstance(recurrent, nn.Module) else OneToOne(recurrent)
        if weight_gradient.dispatch(type(self.recurrent)) is weight_gradient.dispatch(object):
            raise EdgepepError(f"recurrent is {type(self.recurrent).__name__}, which has no local update.")
        self.heard: deque[tuple[Tensor, int]] = deque(maxlen=2)
        """What the recurrent weights were given in the last two passes: spikes [batch, ...] summed over some steps."""

    def advance(self, state: State, current: Tensor) -> tuple[State, Tensor]:
        """One step: leak, take in the current and the last spikes, reset, fire."""
        spikes, potential = state
        reset = self.above(potential)
        beta = self.beta.clamp(0, 1) if isinstance(self.beta, Tensor) else self.beta
        potential = beta * potential + current + self.recurrent(spikes)
        if self.reset_mechanism == "subtract":
            potential = potential - reset * self.threshold
        elif self.reset_mechanism == "zero":
            potential = potential - reset * potential
        spikes = self.fire(potential)
        return (spikes, self.after_spike(potential, spikes, reset)), spikes

    def scan(self, current: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Run over the time axis, remembering what the recurrent weights were given."""
        first = None if state is None else state[0].clone()
        spikes, last = super().scan(current, state)
        if self.training and not spikes.requires_grad:
            given, steps = spikes[:-1].sum(0), len(spikes)
            if first is not None:  # further on in the same pass
                before, passed = self.heard.pop()
                given, steps = before + first + given, steps + passed
            self.heard.append((given, steps))
        return spikes, last

    def learn(self, delta: Tensor, change: Callable[[nn.Parameter, Gradient], None]) -> None:
        """Change the recurrent weights by a layer's error, unless their exact gradient is known.

        Args:
            delta: [batch, ...]; of two passes, one below the other, if it is twice as long as a batch.
            change: is handed each parameter and its gradient.

        """
        if self.gradients or not self.heard:
            return
        means = [given / steps for given, steps in self.heard]
        heard = torch.cat(means) if len(delta) == 2 * len(means[-1]) else means[-1]
        for name, gradient in weight_gradient(self.recurrent, heard, delta).items():
            parameter = getattr(self.recurrent, name)
            if parameter.requires_grad:
                change(parameter, gradient)
