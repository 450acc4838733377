"""Pooling without the places of the maxima, which only a backward pass asks for; and an error's way back through it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from edgepep.derivatives import by_autograd, pull_back


def pooled(pool: nn.MaxPool2d, x: Tensor) -> Tensor:
    """Return pool(x), by comparing slices where that gives the same values in a small part of the time.

    torch's pooling on the CPU looks at one value after the other unless channels come last; the maximum of whole slices
    takes a twentieth of it. Where a gradient is recorded, something listens, traces or counts, torch's own is called.

    Args:
        pool: whose windows do not overlap, for the quick way.
        x: [batch, channels, rows, columns].

    """
    own: Any = pool
    down, across = _pair(own.kernel_size)
    if (
        torch.is_grad_enabled()
        or x.dim() != 4
        or x.is_cuda
        or not (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last))
        or not _side_by_side(own)
        or own.return_indices
        or own._forward_hooks
        or own._forward_pre_hooks
        or max(down, across) > 4
        or min(x.shape[2] // down, x.shape[3] // across) == 0
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        or is_in_torch_dispatch_mode()
    ):
        answer: Tensor = pool(x)
        return answer
    return _largest(_largest(x, 2, down), 3, across)


def _largest(x: Tensor, axis: int, size: int) -> Tensor:
    """The maximum of every `size` neighbours along an axis; what is left over at its end is left out."""
    end = x.shape[axis] // size * size
    if size == 1:
        return x
    slices = [x[:, :, first:end:size] if axis == 2 else x[..., first:end:size] for first in range(size)]
    largest = torch.maximum(slices[0], slices[1])
    for others in slices[2:]:
        torch.maximum(largest, others, out=largest)
    return largest


@pull_back.register
def _(f: nn.AvgPool2d, x: Tensor, delta: Tensor) -> Tensor:
    if not _side_by_side(f) or f.divisor_override:
        return by_autograd(f, x, delta)
    down, across = _pair(f.kernel_size)
    shares = (delta / (down * across))[..., None, :, None].expand(*delta.shape[:-1], down, delta.shape[-1], across)
    return _with_the_rest(shares.flatten(-4, -3).flatten(-2), x)


@pull_back.register
def _(f: nn.MaxPool2d, x: Tensor, delta: Tensor) -> Tensor:
    if not torch.compiler.is_exporting() or not _side_by_side(f):
        return by_autograd(f, x, delta)
    (down, across), (rows, columns) = _pair(f.kernel_size), delta.shape[-2:]
    windows = x[..., : rows * down, : columns * across].unflatten(-1, (columns, across)).unflatten(-3, (rows, down))
    windows = windows.transpose(-3, -2)  # [..., rows, columns, down, across]
    largest = windows.flatten(-2).argmax(-1, keepdim=True)
    hit = torch.arange(down * across, device=x.device) == largest
    shares = (hit * delta[..., None]).unflatten(-1, (down, across)).transpose(-3, -2)
    return _with_the_rest(shares.flatten(-4, -3).flatten(-2), x)


def _with_the_rest(gradient: Tensor, x: Tensor) -> Tensor:
    """The gradient of x: none where windows leave rows and columns out at its end."""
    below, right = (there - reached for there, reached in zip(x.shape[-2:], gradient.shape[-2:], strict=True))
    return pad(gradient, (0, right, 0, below)) if below or right else gradient


def _side_by_side(pool: Any) -> bool:
    """Whether windows neither overlap nor reach beyond the map."""
    return (
        _pair(pool.stride) == _pair(pool.kernel_size)
        and _pair(pool.padding) == (0, 0)
        and _pair(getattr(pool, "dilation", 1)) == (1, 1)
        and not pool.ceil_mode
    )


def _pair(size: Any) -> tuple[int, int]:
    down, across = size if isinstance(size, tuple) else (size, size)
    return int(down), int(across)
