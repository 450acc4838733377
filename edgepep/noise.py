"""Random numbers that are a function of what they are for, not of what was drawn before.

Two passes that must share one noise (dropout, Poisson codes), a feedback matrix that is regenerated rather than
stored, a run that resumes inside an epoch: each needs the same numbers again without keeping them. Element i of a
draw is a hash of (key, i), in 32-bit integers that wrap, so that every device gives the same bits.
The hash is the "lowbias32" finaliser found by Wellons 2018 (hash-prospector; its constants are facts of the search).
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from edgepep.phases import count_draws

_GOLDEN = -1640531527  # 2**32 divided by the golden ratio, as a signed 32-bit integer
_FACTOR_1 = 0x7FEB352D
_FACTOR_2 = 0x846CA68B - 2**32


def _mix_(h: Tensor) -> Tensor:
    """Scramble int32 in place."""
    h.bitwise_xor_((h >> 16).bitwise_and_(0xFFFF)).mul_(_FACTOR_1)
    h.bitwise_xor_((h >> 15).bitwise_and_(0x1FFFF)).mul_(_FACTOR_2)
    return h.bitwise_xor_((h >> 16).bitwise_and_(0xFFFF))


def key(*parts: int | Tensor, device: torch.device | str | None = None) -> Tensor:
    """One int32 key from what a draw is for, say (seed, step, place); each part may be an int32 tensor, 0-d or [n]."""
    h = torch.zeros((), dtype=torch.int32, device=device)
    for part in parts:
        wrapped = part if isinstance(part, Tensor) else (part + 2**31) % 2**32 - 2**31
        h = _mix_(h * 31 + wrapped + _GOLDEN)
    return h


def bits(shape: Sequence[int], key: Tensor, start: int = 0) -> Tensor:
    """Uniform signed 32-bit integers of the given shape, on the key's device; `start` leaves out that many."""
    size = math.prod(shape)
    count_draws(size)
    if torch.compiler.is_exporting() and len(shape) > 1:  # a graph would hold the indices: here, one for each row
        columns = torch.arange(math.prod(shape[1:]), dtype=torch.int32, device=key.device).mul_(_GOLDEN)
        rows = torch.arange(shape[0], dtype=torch.int32, device=key.device).mul_(columns.shape[0]).add_(start)
        return _mix_(rows.mul_(_GOLDEN).add(key).unsqueeze(1) + columns).view(tuple(shape))
    index = torch.arange(start, start + size, dtype=torch.int32, device=key.device).mul_(_GOLDEN)
    return _mix_(index.add_(key)).view(tuple(shape))


def series(shape: Sequence[int], keys: Tensor) -> Iterator[Tensor]:
    """What `bits` gives for each of some keys [n]."""
    size = math.prod(shape)
    index = torch.arange(size, dtype=torch.int32, device=keys.device).mul_(_GOLDEN)
    for key in keys:
        count_draws(size)
        yield _mix_(index + key).view(tuple(shape))


def bernoulli(shape: Sequence[int], probability: float, key: Tensor) -> Tensor:
    """Booleans that are true with the given probability."""
    return bits(shape, key) < round(probability * 2**32 - 2**31) if probability < 1 else bits(shape, key) <= 2**31 - 1


def normal(shape: Sequence[int], key: Tensor) -> Tensor:
    """Float32 of mean 0 and standard deviation 1 (Box & Muller 1958), alike on every device up to rounding."""
    size = math.prod(shape)
    length, angle = uniform((2, (size + 1) // 2), 1.0, key)
    length = ((length + 1) / 2 + 2.0**-25).log_().mul_(-2).sqrt_()
    angle = angle * math.pi
    return torch.cat([length * angle.cos(), length * angle.sin()])[:size].view(tuple(shape))


def uniform(shape: Sequence[int], bound: float | Tensor, key: Tensor) -> Tensor:
    """Float32 uniform on [-bound, bound), the same on every device: a 24-bit integer times a constant.

    The bound may be a 0-d tensor on the key's device.
    """
    return (bits(shape, key) >> 8).to(torch.float32).mul_(bound / 2**23)
