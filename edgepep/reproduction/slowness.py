"""How slowly a learning curve rises, as the authors of PEPITA measure it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgepep.errors import EdgepepError

_STEPS = 60
_GOLDEN = (math.sqrt(5) - 1) / 2


def slowness(accuracies: Sequence[float], first_drop: int | None = None) -> float:
    """Epochs s at which the curve a(t) = a_max t / (s + t), fitted to accuracies, is at half of its height.

    As in the authors' notebook (plot_compute_slowness.ipynb of GiorgiaD/PEPITA): only epochs before the first drop of
    the learning rate count, a_max is the largest accuracy among them, and s is fitted by least squares. The authors
    prepend the accuracy of chance at t = 0, where every such curve is 0; that shifts no fit, and is left out here.

    Args:
        accuracies: test accuracy after epoch 1, 2, …
        first_drop: number of epochs before the learning rate first falls; None for all.

    Raises:
        EdgepepError: if there are fewer than two epochs, or no accuracy above 0.

    """
    window = list(accuracies[:first_drop])
    highest = max(window, default=0.0)
    if len(window) < 2 or highest <= 0:
        raise EdgepepError(f"slowness needs two epochs and an accuracy above 0; the curve is {window}.")

    def error(exponent: float) -> float:
        s = math.exp(exponent)
        return math.fsum((a - highest * t / (s + t)) ** 2 for t, a in enumerate(window, 1))

    low, high = math.log(1e-6), math.log(100 * len(window))
    grid = [low + (high - low) * i / _STEPS for i in range(_STEPS + 1)]
    best = min(range(len(grid)), key=lambda i: error(grid[i]))
    a, b = grid[max(best - 1, 0)], grid[min(best + 1, _STEPS)]
    for _ in range(_STEPS):  # golden section
        c, d = b - _GOLDEN * (b - a), a + _GOLDEN * (b - a)
        a, b = (a, d) if error(c) < error(d) else (c, b)
    return math.exp((a + b) / 2)
