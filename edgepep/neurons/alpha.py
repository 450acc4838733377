"""Neurons with an alpha-shaped response."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edgepep.errors import EdgepepError
from edgepep.neurons.population import Spiking, State


class Alpha(Spiking):
    """Neurons whose potential rises and falls after an input, as a difference of decays: snnTorch's `Alpha`.

        e[t] = alpha e[t-1] + I[t];    i[t] = beta i[t-1] - I[t];    u[t] = tau (e[t] + i[t])

    with tau = log alpha / (log beta - log alpha) + 1, and snnTorch's resets of all three.

    Args:
        alpha: decay of the excitatory current, in (beta, 1].
        beta: decay of the inhibitory current, in [0, alpha).
        threshold: potential above which a neuron fires, > 0.
        learn_alpha: whether alpha learns.
        learn_beta: whether beta learns.
        **options: of every spiking population but reset_delay, which this one does not have; see `Spiking`.

    Raises:
        EdgepepError: if a value is out of range.

    """

    states = 3
    alpha: float | Tensor
    beta: float | Tensor

    def __init__(
        self,
        alpha: float | Tensor = 0.9,
        beta: float | Tensor = 0.8,
        threshold: float | Tensor = 1.0,
        *,
        learn_alpha: bool = False,
        learn_beta: bool = False,
        **options: Any,
    ) -> None:
        if not options.get("reset_delay", True):
            raise EdgepepError("reset_delay is False; Alpha neurons reset in the step after the spike.")
        super().__init__(threshold, **options)
        self.hold("alpha", alpha, 0.0, 1.0, learn_alpha)
        self.hold("beta", beta, 0.0, 1.0, learn_beta)
        if (torch.as_tensor(self.alpha) <= torch.as_tensor(self.beta)).any():
            raise EdgepepError(f"alpha is {alpha} and beta {beta}; alpha must be above beta.")
        fixed = isinstance(self.alpha, float) and isinstance(self.beta, float)
        given = torch.as_tensor(alpha), torch.as_tensor(beta)
        self._tau = float(_tau(*given)) if fixed else None  # rounded as snnTorch does

    def advance(self, state: State, current: Tensor) -> tuple[State, Tensor]:
        """One step: both currents, their weighted sum, the reset, fire."""
        excitatory, inhibitory, potential = state
        reset = self.above(potential)
        alpha, beta = self.alpha, self.beta
        tau: float | Tensor | None = self._tau
        if tau is None:
            alpha, beta = (torch.as_tensor(v, dtype=current.dtype).clamp(0, 1) for v in (alpha, beta))
            tau = _tau(alpha, beta)
        decayed = beta * inhibitory - current
        excited = alpha * excitatory + current
        potential = tau * (excited + decayed)
        if self.reset_mechanism == "zero":
            excited, decayed, potential = (v - v * reset for v in (excited, decayed, potential))
        elif self.reset_mechanism == "subtract":
            excited = excited - self.threshold * reset
            potential = potential + inhibitory * reset
            decayed = decayed - decayed * reset
        return (excited, decayed, potential), self.fire(potential)


def _tau(alpha: Tensor, beta: Tensor) -> Tensor:
    alpha, beta = alpha.clamp(0, 1).log(), beta.clamp(0, 1).log()
    return alpha / (beta - alpha) + 1
