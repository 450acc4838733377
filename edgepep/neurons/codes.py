"""Codes between data and spikes: encoders give a network its time axis, decoders read one value from it.

An encoder is called with data [batch, ...] and gives [time, batch, ...]; `window(x, start, stop)` gives some of the
steps, the same ones. A decoder reads [batch, ...] from [time, batch, ...] in one call, or window by window: `gather`
adds a window to what was gathered before (None at first), `finish` makes the value of it.

A rule that modulates the input subtracts F e from the code, at every step: a signed current, whatever the code. So
spikes are not drawn again for the second pass, and h - g holds no sampling noise.
"""

import math

import torch
from torch import Tensor, nn

from edgepep import noise
from edgepep.derivatives import pull_back
from edgepep.errors import EdgepepError


def _checked(steps: int) -> int:
    if steps < 1:
        raise EdgepepError(f"steps is {steps}; a spiking network needs at least 1 time step.")
    return steps


def _refuse_outside(x: Tensor, code: str) -> None:
    """Raise EdgepepError unless every value is from 0 to 1; on a GPU, where looking would wait for it, do not look."""
    if not x.is_cuda and not torch.compiler.is_exporting():
        low, high = x.aminmax()
        if not (low >= 0 and high <= 1):
            raise EdgepepError(
                f"{code} codes take values from 0 to 1, not {float(low):g} to {float(high):g}; scale the data, or give "
                "them as a constant current."
            )


class Repeat(nn.Module):
    """Direct encoding: the data as a current that is the same at every step, expanded and not copied.

    Args:
        steps: number of time steps, at least 1.

    Raises:
        EdgepepError: if steps is below 1.

    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = _checked(steps)

    def forward(self, x: Tensor) -> Tensor:
        """From [batch, ...] to [time, batch, ...]."""
        return x.expand(self.steps, *x.shape)

    def length(self, x: Tensor) -> int:
        """Number of time steps for some data."""
        return self.steps

    def window(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Steps from start to stop."""
        return x.expand(stop - start, *x.shape)


class Poisson(Repeat):
    """Rate code: at every step a value spikes with the probability that it is, independently.

    The random numbers are a function of (seed, step of training, time, index): all passes of a step see the same
    spikes, whatever the order in which they run. `Network.renew_noise` goes on to the next ones.

    Args:
        steps: number of time steps, at least 1.
        seed: of the numbers.

    Raises:
        EdgepepError: if steps is below 1; on a call, if a value is not from 0 to 1.

    """

    step: Tensor

    def __init__(self, steps: int, seed: int = 0) -> None:
        super().__init__(steps)
        self.seed, self.place = seed, 0
        self.register_buffer("step", torch.zeros((), dtype=torch.int32))

    def renew(self) -> None:
        """Go on to the next numbers."""
        self.step += 1

    def forward(self, x: Tensor) -> Tensor:
        """From probabilities [batch, ...] to spikes [time, batch, ...]."""
        return self.window(x, 0, self.steps)

    def window(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Steps from start to stop."""
        _refuse_outside(x, "Poisson")
        level = (x * 2.0**16).sub_(2.0**15)
        spikes = x.new_empty(stop - start, *x.shape)
        pairs = torch.arange(start // 2, (stop + 1) // 2, dtype=torch.int32, device=x.device)
        keys = noise.key(self.seed, self.place, self.step, pairs, device=x.device)
        for pair, bits in enumerate(noise.series(x.shape, keys), start // 2):  # a number's halves serve two steps
            for t in (2 * pair, 2 * pair + 1):
                if start <= t < stop:
                    half = bits >> 16 if t % 2 else (bits << 16) >> 16
                    torch.lt(half, level, out=spikes[t - start])
        return spikes


class Latency(Repeat):
    """Time code: each value spikes once, the larger the earlier; what is at or below a floor never does.

    A value v spikes at step (1 - v) (steps - 1), rounded. Read it through a `Trace`: a rate does not tell early from
    late.

    Args:
        steps: number of time steps, at least 1.
        floor: largest value that does not spike.

    Raises:
        EdgepepError: if steps is below 1; on a call, if a value is not from 0 to 1.

    """

    def __init__(self, steps: int, floor: float = 0.01) -> None:
        super().__init__(steps)
        self.floor = floor

    def forward(self, x: Tensor) -> Tensor:
        """From values [batch, ...] to spikes [time, batch, ...]."""
        return self.window(x, 0, self.steps)

    def window(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Steps from start to stop."""
        _refuse_outside(x, "latency")
        when = ((1 - x) * (self.steps - 1)).round().masked_fill(x <= self.floor, -1)
        times = torch.arange(start, stop, dtype=x.dtype, device=x.device).view(-1, *[1] * x.dim())
        return (when == times).to(x.dtype)


class Frames(nn.Module):
    """Data that have a time axis of their own, such as events gathered into frames: [batch, time, ...]."""

    def forward(self, x: Tensor) -> Tensor:
        """From [batch, time, ...] to [time, batch, ...]."""
        return self.window(x, 0, self.length(x))

    def length(self, x: Tensor) -> int:
        """Number of time steps of some data."""
        if x.dim() < 3:
            raise EdgepepError(f"frames are [batch, time, ...]; the data have the shape {list(x.shape)}.")
        return x.shape[1]

    def window(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Steps from start to stop."""
        return x[:, start:stop].transpose(0, 1)


class Rate(nn.Module):
    """Rate decoding: the mean over time."""

    def forward(self, x: Tensor) -> Tensor:
        """From [time, batch, ...] to [batch, ...]."""
        return x[0] if x.stride(0) == 0 else x.mean(0)

    def gather(self, before: Tensor | None, x: Tensor) -> Tensor:
        """Add a window [time, batch, ...]."""
        here = x[0] * len(x) if x.stride(0) == 0 else x.sum(0) if len(x) > 1 else x[0]
        return here.clone() if before is None else before + here if x.requires_grad else before.add_(here)

    def finish(self, total: Tensor, steps: int) -> Tensor:
        """Value of what was gathered over so many steps."""
        return total / steps if total.requires_grad else total.div_(steps)


class Trace(nn.Module):
    """Low-pass decoding: the mean over time with weights decay^(T-1), ..., decay, 1, so that the latest counts most.

    It is what an exponential trace, decaying by a factor at every step, holds at the end of the window.

    Args:
        decay: factor of a step, in (0, 1).

    Raises:
        EdgepepError: if decay is out of range.

    """

    def __init__(self, decay: float = 0.95) -> None:
        super().__init__()
        if not 0 < decay < 1:
            raise EdgepepError(f"decay is {decay}; it must be above 0 and below 1.")
        self.decay = decay

    def extra_repr(self) -> str:
        """Show the parameters when printed."""
        return f"decay={self.decay}"

    def forward(self, x: Tensor) -> Tensor:
        """From [time, batch, ...] to [batch, ...]."""
        if torch.compiler.is_exporting():  # the number of steps stays free
            weights = self.weights(x)
            read: Tensor = torch.tensordot(weights / weights.sum(), x, dims=1)
            return read
        return x[0] if x.stride(0) == 0 else self.finish(self.gather(None, x), len(x))

    def weights(self, x: Tensor) -> Tensor:
        """decay^(T-1), ..., 1 for x [time, ...]."""
        powers = x.shape[0] - 1 - torch.arange(x.shape[0], dtype=x.dtype, device=x.device)
        weights: Tensor = (powers * math.log(self.decay)).exp_()
        return weights

    def gather(self, before: Tensor | None, x: Tensor) -> Tensor:
        """Let what was gathered decay over a window [time, batch, ...], and add it."""
        here: Tensor = torch.tensordot(self.weights(x), x, dims=1)
        return here if before is None else before * math.pow(self.decay, len(x)) + here

    def finish(self, total: Tensor, steps: int) -> Tensor:
        """Value of what was gathered over so many steps."""
        weight = (1 - self.decay) / (1 - math.pow(self.decay, steps))
        return total * weight


@pull_back.register
def _(f: Rate, x: Tensor, delta: Tensor) -> Tensor:
    return (delta / len(x)).expand(x.shape)


@pull_back.register
def _(f: Trace, x: Tensor, delta: Tensor) -> Tensor:
    weights = f.finish(f.weights(x), len(x))
    return weights.view(-1, *[1] * delta.dim()) * delta
