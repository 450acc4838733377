"""Products with a weight that changes, taken along with its changes instead of multiplied again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edgepep.deferred import Deferred
from edgepep.local import Factor, Gradient, Product, accumulate_

_REFRESH = 1000  # updates after which a followed response is multiplied afresh, which bounds its rounding error


class Followed:
    """The response of some rows to a weight, and its velocity, taken along with each update."""

    def __init__(self, weight: Tensor, rows: Tensor, velocity: Tensor | None, deferred: Deferred | None = None) -> None:
        self.rows, self.version, self.age = rows, weight._version, 0
        if deferred is not None:
            self.response, self.velocity = deferred.follow(rows)
            return
        self.response = rows @ weight.t()
        self.velocity = torch.zeros_like(self.response) if velocity is None else rows @ velocity.t()

    def state(self) -> dict[str, Any]:
        """What to keep of it in a file."""
        return {"response": self.response, "velocity": self.velocity, "age": self.age}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a response that was kept, unless it is that of other rows: it may differ by rounding alone."""
        found = [state[name].to(self.response) for name in ("response", "velocity")]
        for kept, fresh in zip(found, (self.response, self.velocity), strict=True):
            if kept.shape != fresh.shape or not (kept - fresh).abs().max() <= 1e-3 * fresh.abs().max():
                return
        (self.response, self.velocity), self.age = found, int(state["age"])

    def holds(self, weight: Tensor, rows: Tensor) -> bool:
        """Whether the response is that of these rows to the weight as it is now."""
        return self.version == weight._version and self.rows is rows and self.age < _REFRESH

    def update(
        self, weight: Tensor, gradient: Gradient, scale: Factor, lr: float, momentum: float, decay: float
    ) -> bool:
        """Make an update that the weight is about to make; False if it cannot be followed."""
        if not isinstance(gradient, Product) or self.version != weight._version:
            return False
        change = Product(gradient.right @ self.rows.t(), gradient.left)
        accumulate_(self.velocity, change, beta=momentum, alpha=scale)
        if decay:
            self.velocity.add_(self.response, alpha=decay)
        self.response.add_(self.velocity, alpha=-lr)
        self.age += 1
        return True
