"""Matrix products by the faster of the two libraries that torch has for them.

torch multiplies matrices of floats by MKL, which gives processors of other makers than Intel half of their speed or
less. oneDNN, which torch uses for convolutions and in what it compiles, is even-handed: on these processors large
products go there. Which library it is hangs on the processor and on sizes alone, never on a measurement, so that a run
that is repeated or resumed gives the same bits.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

_ROWS, _WORK = 8, 2**22
"""Rows, and multiply-accumulates, from which oneDNN is faster."""
_STRETCH = 2**16
"""Weights of a matrix that are changed together: their product is formed, and stays in a core's cache meanwhile."""
_as_torch = [False]


@contextmanager
def as_torch_does() -> Iterator[None]:
    """Within this context products are torch's own, to compare with its modules to the last bit."""
    before, _as_torch[0] = _as_torch[0], True
    try:
        yield
    finally:
        _as_torch[0] = before


def torchs_own() -> bool:
    """Whether answers are to be torch's to the last bit."""
    return _as_torch[0]


def multiplied(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x @ weight.T + bias for x [..., in] and weight [out, in]; no gradient is recorded by the quick way."""
    other = faster(x, weight)
    if other is None:
        return linear(x, weight, bias)
    answer: Tensor = other(x, weight, bias, "none", [], "")
    return answer


def faster(x: Tensor, weight: Tensor) -> Callable[..., Tensor] | None:
    """Return oneDNN's product of [n, in] and [out, in], where it is there, is faster, and may be used."""
    if _as_torch[0] or torch.compiler.is_exporting() or torch.compiler.is_compiling():
        return None  # before sizes are looked at, which may be left free
    rows = x.shape[0]
    if (
        x.dim() != 2
        or rows < _ROWS
        or rows * weight.shape[0] * weight.shape[1] < _WORK
        or x.dtype is not torch.float32
        or x.device.type != "cpu"
        or torch.is_grad_enabled()
        or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        or is_in_torch_dispatch_mode()
    ):
        return None
    return _onednn()


def by_stretches(left: Tensor, right: Tensor) -> bool:
    """Whether left.T @ right, [n, out] and [n, in], is formed faster by oneDNN, stretch by stretch of its rows."""
    if faster(left.t(), right.t()) is None:
        return False
    samples, rows = left.shape
    return samples * (rows // _count(rows, right.shape[1])) * right.shape[1] >= _WORK * torch.get_num_threads()


def stretches(matrix: Tensor) -> Iterator[slice]:
    """Rows of a matrix that are changed together, enough for products to be worth their preparation."""
    whole = matrix.shape[0]
    count = _count(whole, matrix.shape[1])
    for i in range(count):
        yield slice(i * whole // count, (i + 1) * whole // count)


def _count(rows: int, columns: int) -> int:
    return -(-rows // max(128, _STRETCH // max(1, columns)))


@cache
def _onednn() -> Callable[..., Tensor] | None:
    """OneDNN's product, where torch would else use MKL on a processor that it does not favour."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()) or _by_intel():
        return None
    x, weight = (torch.arange(n * 33.0).sin().view(n, 33) for n in (9, 17))
    try:
        product: Any = torch.ops.mkldnn._linear_pointwise.default
        same = torch.allclose(product(x, weight, None, "none", [], ""), x @ weight.t(), atol=1e-4)
    except (AttributeError, RuntimeError):  # a torch without it, or with another signature
        return None
    return product if same else None


def _by_intel() -> bool:
    """Whether the processor is Intel's; what says nothing counts as one."""
    file = Path("/proc/cpuinfo")
    said = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else platform.processor()
    return not any(maker in said for maker in ("AuthenticAMD", "HygonGenuine", "CentaurHauls"))
