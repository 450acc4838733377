"""Steps that a GPU is told once: recorded as one graph of kernels, and launched again whole.

A step of a small network is some dozens of kernels, and Python takes longer to ask for them one by one than the GPU
takes to run them. What is recorded always works on the same tensors: the batch is told by the samples' numbers, which
are copied to where the record reads them, and weights, velocities, counters of noise and the epoch's sums are where
they are. What is not a tensor, a learning rate say, is as it was when the step was recorded; so a record is of one
length of batch and of one setting of the optimizer, and another is made when they change.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from edgepep.rule import Outcome, Rule
from edgepep.updater import InPlaceSGD

WARM = 3
"""Steps that are done one kernel at a time before one is recorded: they make what is made once."""

Step = Callable[[Tensor], Outcome]


class Recorder(Protocol):
    """Writes down what a step asks of a device."""

    def warm(self, step: Callable[[], Outcome]) -> Outcome:
        """Do a step, unrecorded, where it is going to be recorded."""

    def record(self, step: Callable[[], Outcome]) -> tuple[Outcome, Callable[[], None]]:
        """Do a step once; return what it gives, and what does the same work again and puts it in the same place.

        Raises:
            RuntimeError: if the step asks for what cannot be recorded; nothing is done then.

        """


class CudaGraphs:
    """Records as CUDA graphs, on a stream of their own; they share the memory that their steps need in passing."""

    def __init__(self) -> None:
        self.pool: Any = None
        self.stream: Any = None

    def warm(self, step: Callable[[], Outcome]) -> Outcome:
        """See Recorder."""
        stream, here = self._stream(), torch.cuda.current_stream()
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            outcome = step()
        here.wait_stream(stream)
        return outcome

    def record(self, step: Callable[[], Outcome]) -> tuple[Outcome, Callable[[], None]]:
        """See Recorder."""
        graph = torch.cuda.CUDAGraph()
        self.pool = self.pool or torch.cuda.graph_pool_handle()
        with torch.cuda.graph(graph, pool=self.pool, stream=self._stream()):
            outcome = step()
        graph.replay()  # to record is to do nothing
        return outcome, graph.replay

    def _stream(self) -> Any:
        self.stream = self.stream or torch.cuda.Stream()
        return self.stream


class Record(NamedTuple):
    """A recorded step: where it reads which samples it is for, what it gives, and what does it again."""

    samples: Tensor
    outcome: Outcome
    again: Callable[[], None]


class Replayed:
    """A step that is recorded when it has been done a few times, and is then replayed.

    Args:
        step: learns from the samples of these numbers, [batch]; it does the same work whenever it is called, on the
            same tensors.
        settings: what else its work depends on, such as learning rates.
        tensors: what it reads and changes in place; records are made anew when one is kept elsewhere.
        recorder: of the device.

    """

    def __init__(
        self,
        step: Step,
        settings: Callable[[], Hashable],
        tensors: Callable[[], list[Tensor]],
        recorder: Recorder,
    ) -> None:
        self.step, self.settings, self.tensors = step, settings, tensors
        self.recorder: Recorder | None = recorder
        self._records: dict[int, Record] = {}
        self._done: dict[int, int] = {}
        self._setting: Hashable = None
        self._places: list[int] = []

    def __call__(self, samples: Tensor) -> Outcome:
        """Do one step; what it gives is overwritten by the next."""
        count = len(samples)
        if self.recorder is None:
            return self.step(samples)
        done = self._done.get(count, 0)
        if done < WARM:
            self._done[count] = done + 1
            return self.recorder.warm(lambda: self.step(samples))
        setting = self.settings()
        if setting != self._setting:
            self._records.clear()
            self._setting = setting
        record = self._records.get(count)
        if record is None:
            return self._record(samples)
        record.samples.copy_(samples)
        record.again()
        return record.outcome

    def look(self) -> None:
        """Forget all records if a tensor is not where it was; for whenever others may have put it elsewhere."""
        if self._records and self._places != self._where():
            self._records.clear()

    def _record(self, samples: Tensor) -> Outcome:
        assert self.recorder is not None
        kept = samples.clone()
        try:
            outcome, again = self.recorder.record(lambda: self.step(kept))
        except RuntimeError as error:
            self.recorder = None
            said = (str(error).splitlines() or ["?"])[0]
            warnings.warn(f"the step cannot be recorded, and is done kernel by kernel: {said}", stacklevel=2)
            return self.step(samples)
        self._records[len(samples)] = Record(kept, outcome, again)
        self._places = self._where()
        return outcome

    def _where(self) -> list[int]:
        return [tensor.data_ptr() for tensor in self.tensors()]


def recorder_for(rule: Rule, device: torch.device) -> Recorder | None:
    """Return what records a rule's steps on a device, if that can be done."""
    return CudaGraphs() if device.type == "cuda" and rule.replayable else None


def hooked(rule: Rule) -> bool:
    """Whether somebody listens to a module's calls, of which a record makes none."""
    return any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in rule.modules())


def settings_of(rule: Rule, optimizer: InPlaceSGD) -> Hashable:
    """What a step's work depends on beside tensors: the optimizer's numbers, and which layers learn."""
    numbers = [(group["lr"], group["momentum"], group["weight_decay"]) for group in optimizer.param_groups]
    return (*numbers, *(layer.learns for layer in rule.network.chain))


def tensors_of(rule: Rule, optimizer: InPlaceSGD) -> list[Tensor]:
    """Weights, buffers and velocities."""
    kept = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return [*rule.parameters(), *rule.buffers(), *kept]
