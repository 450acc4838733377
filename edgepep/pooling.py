"""Max-pooling without the places of the maxima, which only a backward pass asks for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode


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
        or _pair(own.stride) != (down, across)
        or _pair(own.padding) != (0, 0)
        or _pair(own.dilation) != (1, 1)
        or own.ceil_mode
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


def _pair(size: Any) -> tuple[int, int]:
    down, across = size if isinstance(size, tuple) else (size, size)
    return int(down), int(across)
