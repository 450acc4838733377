"""Leaky integrate-and-fire neurons."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from edgepep.derivatives import pull_back
from edgepep.neurons.population import Spiking, State


class Leaky(Spiking):
    """Leaky integrate-and-fire neurons over the time axis: snnTorch's `Leaky`, spike for spike.

        u[t] = beta u[t-1] + I[t] - threshold r[t];    s[t] = 1 where u[t] > threshold, else 0

    r[t] = s[t-1] with snnTorch's defaults, which also scan in place.

    Args:
        beta: share of the potential that is left after a step, in [0, 1]; a number or one value a neuron.
        threshold: potential above which a neuron fires, > 0.
        learn_beta: whether beta learns.
        **options: of every spiking population; see `Spiking`.

    Raises:
        EdgepepError: if a value is out of range.

    """

    beta: float | Tensor

    def __init__(
        self, beta: float | Tensor = 0.9, threshold: float | Tensor = 1.0, *, learn_beta: bool = False, **options: Any
    ) -> None:
        super().__init__(threshold, **options)
        self.hold("beta", beta, 0.0, 1.0, learn_beta)

    def advance(self, state: State, current: Tensor) -> tuple[State, Tensor]:
        """One step: leak, take in the current, reset, fire."""
        (potential,) = state
        reset = self.above(potential)
        if self.reset_mechanism == "zero":
            potential = (1 - reset) * potential
        beta = self.beta.clamp(0, 1) if isinstance(self.beta, Tensor) else self.beta
        potential = beta * potential + current
        if self.reset_mechanism == "subtract":
            potential = potential - reset * self.threshold
        spikes = self.fire(potential)
        return (self.after_spike(potential, spikes, reset),), spikes

    @property
    def plain(self) -> bool:
        """Whether spikes are 1, and subtract a fixed threshold in the next step."""
        usual = self.reset_mechanism == "subtract" and self.reset_delay and not self.inhibition and self.plain_spikes
        return usual and not self._parameters

    def _in_place(self, current: Tensor, state: State) -> tuple[Tensor, State]:
        if not self.plain or not isinstance(self.threshold, float):
            return super()._in_place(current, state)
        (potential,) = state
        spikes = torch.empty(current.shape, dtype=current.dtype, device=current.device)
        before = torch.gt(potential, self.threshold, out=spikes[0])
        for step, fired in zip(current, spikes, strict=True):
            potential.mul_(self.beta).add_(step).sub_(before, alpha=self.threshold)
            before = torch.gt(potential, self.threshold, out=fired)
        return spikes, (potential,)


@pull_back.register
def _(f: Leaky, x: Tensor, delta: Tensor) -> Tensor:
    """Backpropagation through time within one population, with snnTorch's surrogate and detached reset; no graph."""
    if not f.plain or f.spike_grad is not None:
        return pull_back.dispatch(object)(f, x, delta)
    spikes, potentials, potential = f(x), torch.empty_like(x), torch.zeros_like(x[0])
    for t in range(len(x)):
        potential.mul_(f.beta).add_(x[t])
        if t:
            potential.sub_(spikes[t - 1] * f.threshold)
        potentials[t] = potential
    slope = potentials.sub_(f.threshold).mul_(math.pi).square_().add_(1).reciprocal_()
    gradient = delta * slope
    for t in range(len(x) - 2, -1, -1):
        gradient[t].add_(gradient[t + 1] * f.beta)
    return gradient
