"""Integrate-and-fire neurons as a circuit of a resistance and a capacity."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from edgepep.errors import EdgepepError
from edgepep.neurons.population import Spiking, State


class Lapicque(Spiking):
    """Lapicque's RC neurons: snnTorch's `Lapicque`, spike for spike.

        u[t] = I[t] dt / C + (1 - dt / (R C)) u[t-1] - threshold r[t]

    Give beta, from which C = dt / (R log(1 / beta)) follows, or R and C.

    Args:
        beta: exp(-dt / (R C)), in (0, 1).
        R: resistance, > 0.
        C: capacity, > 0.
        time_step: dt, > 0.
        threshold: potential above which a neuron fires, > 0.
        **options: of every spiking population but reset_delay, which this one does not have; see `Spiking`.

    Raises:
        EdgepepError: if a value is out of range, or what is given does not determine R and C.

    """

    R: float
    C: float
    time_step: float

    def __init__(
        self,
        beta: float | None = None,
        R: float | None = None,
        C: float | None = None,
        time_step: float = 1.0,
        threshold: float | Tensor = 1.0,
        **options: Any,
    ) -> None:
        if not options.get("reset_delay", True):
            raise EdgepepError("reset_delay is False; Lapicque neurons reset in the step after the spike.")
        super().__init__(threshold, **options)
        self.hold("time_step", time_step, 0.0, math.inf, above=True)
        if beta is not None and not 0 < beta < 1:
            raise EdgepepError(f"beta is {beta}; it must be above 0 and below 1.")
        if beta is None and (R is None or C is None):
            raise EdgepepError("give beta, or R and C.")
        if beta is not None and R is not None and C is not None:
            raise EdgepepError("beta, R and C are given; beta follows from R and C.")
        product = 0.0 if beta is None else float(time_step) / math.log(1 / beta)
        R = R if R is not None else 1.0 if C is None else product / C
        self.hold("R", R, 0.0, math.inf, above=True)
        self.hold("C", product / R if C is None else C, 0.0, math.inf, above=True)

    def advance(self, state: State, current: Tensor) -> tuple[State, Tensor]:
        """One step: charge, leak, reset, fire."""
        (potential,) = state
        reset = self.above(potential)
        charge = current * self.R * (1 / (self.R * self.C)) * self.time_step
        potential = charge + (1 - (self.time_step / (self.R * self.C))) * potential
        if self.reset_mechanism == "subtract":
            potential = potential - reset * self.threshold
        elif self.reset_mechanism == "zero":
            potential = potential - reset * potential
        return (potential,), self.fire(potential)
