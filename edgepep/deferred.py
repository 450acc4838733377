"""Updates by one sample each, kept as the two vectors that they are, and written into the weights many at a time.

One sample's update is a product of two vectors, yet momentum makes it touch every weight and every velocity: three
matrices are read and two are written a step, where the pass itself reads one. Here the last updates wait as vectors,
and the weights in use are

    W - sum over k of c_k a_k b_k^T,    c_k <- c_k + lr * p_k,  p_k <- momentum * p_k    in every step after update k,

which is SGD with heavy-ball momentum, reordered. An answer of the synapses takes the sum along as two small products.
An update is written into the matrix when its p_k has all but died away, a block of them by one matrix product; a
velocity as large as the weights does not exist meanwhile.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edgepep.local import Product

BLOCK = 32
"""Updates that are written together."""
REST = 1e-5
"""Share of an update's first step that its last one before it is written still has. What would be left of its velocity
is added when it is written, so that only the time of the last hundred-thousandth differs from SGD."""


class Deferred:
    """Updates of one weight that wait.

    Args:
        weight: [out, in], changed in place from time to time.
        momentum: heavy-ball momentum.
        velocity: [out, in], of the updates before; None if there were none.

    """

    def __init__(self, weight: Tensor, momentum: float, velocity: Tensor | None) -> None:
        steps = math.ceil(math.log(REST) / math.log(momentum)) if momentum else 0
        places = BLOCK * (math.ceil(steps / BLOCK) + 1)
        self.weight, self.momentum, self.left_over, self.velocity = weight, momentum, 1.0, velocity
        self.left, self.right = weight.new_zeros(places, len(weight)), weight.new_zeros(places, weight.shape[1])
        self.power, self.coefficient = weight.new_zeros(places), weight.new_zeros(places)
        self.lefts, self.rights, self.powers = (list(t.unbind()) for t in (self.left, self.right, self.power))
        self.across, self.place = self.right.t(), 0

    def add(self, update: Product, scale: float, lr: float) -> None:
        """Take in one step of SGD whose gradient is scale times a product of rank one.

        Args:
            update: its factors, [1, out] and [1, in].
            scale: of the gradient.
            lr: learning rate.

        """
        place = self.place
        self.power.mul_(self.momentum)
        self.lefts[place].copy_(update.left[0])
        self.rights[place].copy_(update.right[0])
        self.powers[place].fill_(scale)
        self.coefficient.add_(self.power, alpha=lr)
        if self.velocity is not None:
            self._go_on(lr)
        self.place = place = (place + 1) % len(self.power)
        if not place % BLOCK:
            self._write(slice(place, place + BLOCK), lr)

    def corrected(self, pre: Tensor, current: Tensor) -> Tensor:
        """Return what the weights in use answer to pre [batch, in], given what the matrix does [batch, out]."""
        return torch.addmm(current, torch.mm(pre, self.across).mul_(self.coefficient), self.left, alpha=-1)

    def follow(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Answers of the weights in use, and of their velocity, to some rows [n, in]: both [n, out]."""
        across = rows @ self.across
        answer = torch.addmm(rows @ self.weight.t(), across * self.coefficient, self.left, alpha=-1)
        velocity = (across * self.power) @ self.left
        return answer, velocity if self.velocity is None else velocity.add_(
            rows @ self.velocity.t(), alpha=self.left_over
        )

    def settle(self) -> Tensor:
        """Write all into the weights, and return the velocity [out, in]."""
        velocity = torch.mm(self.left.t(), self.right * self.power[:, None])
        if self.velocity is not None:
            velocity.add_(self.velocity, alpha=self.left_over)
        self.weight.addmm_(self.left.t(), self.right * self.coefficient[:, None], alpha=-1)
        self.power.zero_()
        self.coefficient.zero_()
        self.velocity, self.left_over, self.place = velocity, 1.0, 0
        return velocity

    def _go_on(self, lr: float) -> None:
        """One step by the velocity of the updates before, until it has died away."""
        assert self.velocity is not None
        self.left_over *= self.momentum
        self.weight.add_(self.velocity, alpha=-lr * self.left_over)
        if self.left_over < REST:
            rest = self.left_over * self.momentum / (1 - self.momentum)
            self.weight.add_(self.velocity, alpha=-lr * rest)
            self.velocity = None

    def _write(self, block: slice, lr: float) -> None:
        """Write the oldest updates into the weights, with what is left of their velocity."""
        rest = lr * self.momentum / (1 - self.momentum)
        whole = self.coefficient[block].add_(self.power[block], alpha=rest)
        self.weight.addmm_(self.left[block].t(), self.right[block] * whole[:, None], alpha=-1)
        self.power[block] = 0
        self.coefficient[block] = 0
