"""Leaky integrate-and-fire neurons whose synaptic current decays too."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from edgepep.neurons.population import Spiking, State


class Synaptic(Spiking):
    """Second-order leaky integrate-and-fire neurons: snnTorch's `Synaptic`, spike for spike.

        i[t] = alpha i[t-1] + I[t];    u[t] = beta u[t-1] + i[t] - threshold r[t]

    Args:
        alpha: share of the synaptic current that is left after a step, in [0, 1].
        beta: share of the potential that is left after a step, in [0, 1].
        threshold: potential above which a neuron fires, > 0.
        learn_alpha: whether alpha learns.
        learn_beta: whether beta learns.
        **options: of every spiking population; see `Spiking`.

    Raises:
        EdgepepError: if a value is out of range.

    """

    states = 2
    alpha: float | Tensor
    beta: float | Tensor

    def __init__(
        self,
        alpha: float | Tensor = 0.8,
        beta: float | Tensor = 0.9,
        threshold: float | Tensor = 1.0,
        *,
        learn_alpha: bool = False,
        learn_beta: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(threshold, **options)
        self.hold("alpha", alpha, 0.0, 1.0, learn_alpha)
        self.hold("beta", beta, 0.0, 1.0, learn_beta)

    def advance(self, state: State, current: Tensor) -> tuple[State, Tensor]:
        """One step: both decays, the current, the reset of the potential, fire."""
        synaptic, potential = state
        reset = self.above(potential)
        alpha = self.alpha.clamp(0, 1) if isinstance(self.alpha, Tensor) else self.alpha
        beta = self.beta.clamp(0, 1) if isinstance(self.beta, Tensor) else self.beta
        synaptic = alpha * synaptic + current
        potential = beta * potential + synaptic
        if self.reset_mechanism == "subtract":
            potential = potential - reset * self.threshold
        elif self.reset_mechanism == "zero":
            potential = potential - potential * reset
        spikes = self.fire(potential)
        return (synaptic, self.after_spike(potential, spikes, reset)), spikes
