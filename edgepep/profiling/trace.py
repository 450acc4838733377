"""A training step as it ran: its operators in order, and every buffer from its birth to its release."""

from __future__ import annotations

import time
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from edgepep import phases
from edgepep.profiling.operations import density, macs


@dataclass(eq=False)
class Buffer:
    """One storage: bytes, what it holds if it outlives the step, and when it lived, in numbers of operators."""

    size: int
    elements: int
    shape: torch.Size
    floating: bool = True
    kind: str = ""
    phase: str = ""
    born: int = 0
    freed: int | None = None

    def at(self, width: float) -> int:
        """Bytes with floating-point values of some bytes each, whole words of 4."""
        return 4 * ceil(self.elements * width / 4) if self.floating else self.size


@dataclass(frozen=True)
class Operation:
    """One operator: where it ran, what it read and wrote, and what it cost."""

    name: str
    phase: str
    layer: str
    reads: tuple[Buffer, ...]
    writes: tuple[Buffer, ...]
    macs: int
    elements: int
    """Elements of the answer, for operators that work element by element."""
    pointwise: bool
    density: float
    """Share of the multiplications whose input is not zero; 1 where it was not looked at."""
    binary: bool
    """Whether the input is made of zeros and ones, so that an addition does."""
    times: tuple[int, int]
    """When it began and ended, in nanoseconds."""


@dataclass
class Trace:
    """What was seen."""

    operations: list[Operation] = field(default_factory=list)
    buffers: list[Buffer] = field(default_factory=list)
    draws: int = 0

    def macs_by(self, what: str) -> dict[str, int]:
        """Multiply-accumulates by "phase" or "layer"."""
        total: Counter[str] = Counter()
        for operation in self.operations:
            if operation.macs:
                total[getattr(operation, what) or "other"] += operation.macs
        return dict(total)


class Watch(TorchDispatchMode):
    """Sees every operator, autograd's too.

    Args:
        fixed: tensors that outlive the step, by what they hold.
        looking: look into the inputs of products for zeros, which takes time.

    """

    def __init__(self, fixed: dict[str, list[Tensor]], looking: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace, self.looking = Trace(), looking
        self.living: dict[int, Buffer] = {}
        self.layer_of: dict[Buffer, str] = {}
        self.drawn = phases.draws()
        for kind, tensors in fixed.items():
            for tensor in tensors:
                self._buffer(tensor, kind)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Tell torch not to import its compiler for us: that takes seconds, and nothing here is compiled."""
        return False

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        reads = self._buffers(tree_leaves((args, kwargs)))
        began = time.time_ns()
        answer = operator(*args, **kwargs)
        times = began, time.time_ns()
        if operator.is_view:
            return answer
        leaves = [t for t in tree_leaves(answer) if isinstance(t, Tensor)]
        writes = self._buffers(leaves)
        count = macs(operator, args, answer)
        pointwise = torch.Tag.pointwise in operator.tags or operator in _LIKE_POINTWISE
        elements = sum(t.numel() for t in leaves) if pointwise else 0
        share, binary = density(operator, args) if self.looking and count else (1.0, False)
        operation = Operation(
            str(operator),
            phases.current(),
            self._layer(reads, count),
            reads,
            writes,
            count,
            elements,
            pointwise,
            share,
            binary,
            times,
        )
        self.trace.operations.append(operation)
        self.trace.draws = phases.draws() - self.drawn
        return answer

    def _layer(self, reads: Iterable[Buffer], count: int) -> str:
        """The layer that said so; under autograd, that of the weights or of the activity that the operator reads."""
        said = phases.current_layer()
        if said and count:
            for buffer in reads:
                self.layer_of.setdefault(buffer, said)
        return said or next((self.layer_of[b] for b in reads if b in self.layer_of), "") if count else said

    def _buffers(self, leaves: Iterable[Any]) -> tuple[Buffer, ...]:
        found = (self._buffer(leaf) for leaf in leaves if isinstance(leaf, Tensor) and leaf.untyped_storage().nbytes())
        return tuple(dict.fromkeys(found))

    def _buffer(self, tensor: Tensor, kind: str = "") -> Buffer:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self.living:
            size = storage.nbytes()
            now = len(self.trace.operations)
            elements, floating = size // tensor.element_size(), tensor.is_floating_point()
            buffer = Buffer(size, elements, tensor.shape, floating, kind, phases.current(), now)
            self.living[key] = buffer
            self.trace.buffers.append(buffer)
            weakref.finalize(storage, self._release, key, buffer)
        return self.living[key]

    def _release(self, key: int, buffer: Buffer) -> None:
        buffer.freed = len(self.trace.operations)
        if self.living.get(key) is buffer:
            del self.living[key]


_LIKE_POINTWISE = {
    torch.ops.aten.threshold_backward.default,
    torch.ops.aten._softmax.default,
    torch.ops.aten._log_softmax.default,
    torch.ops.aten._log_softmax_backward_data.default,
    torch.ops.aten.scatter_add_.default,
    torch.ops.aten.copy_.default,
    torch.ops.aten.clone.default,
}


def living_at(trace: Trace) -> Iterator[tuple[int, list[Buffer]]]:
    """After each operator, by its number, the buffers alive that the step itself made."""
    alive: set[Buffer] = set()
    births: dict[int, list[Buffer]] = {}
    deaths: dict[int, list[Buffer]] = {}
    for buffer in trace.buffers:
        if not buffer.kind:
            births.setdefault(buffer.born, []).append(buffer)
            if buffer.freed is not None:
                deaths.setdefault(buffer.freed, []).append(buffer)
    for now in range(len(trace.operations)):
        alive.difference_update(deaths.get(now, ()))
        alive.update(births.get(now, ()))
        yield now, list(alive)
