"""How the angles between a rule's updates and the exact gradient change from epoch to epoch."""

from __future__ import annotations

import math

from torch import Tensor

from edgepep import randomness
from edgepep.diagnostics import diagnose
from edgepep.rule import Rule


class Angles:
    """Measures a rule's angles on one batch, the same each time, and changes nothing.

    Args:
        x: inputs [batch, ...].
        target: class indices [batch].
        samples: which samples these are, for rules that remember them.

    """

    def __init__(self, x: Tensor, target: Tensor, samples: Tensor | None = None) -> None:
        self.x, self.target, self.samples = x, target, samples

    def __call__(self, rule: Rule) -> dict[str, list[float | None]]:
        """By layer, in degrees: of its update to the exact gradient, and of its feedback to its weights.

        None stands where there is nothing to measure, such as the update of a layer that rests.
        """
        device = self.target.device
        before = randomness.state(device)
        try:
            found = diagnose(rule, self.x, self.target, self.samples)
        finally:
            randomness.restore(before, device)
        return {layer.name: [_rounded(layer.update_angle), _rounded(layer.feedback_angle)] for layer in found.layers}


def _rounded(angle: float | None) -> float | None:
    return None if angle is None or not math.isfinite(angle) else round(angle, 4)
