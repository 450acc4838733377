"""Data parallel training whose weights are the same, bit for bit, with one process as with many.

A batch is cut into a fixed number of parts, whatever the number of processes; each process computes the updates of its
share of them, all exchange what they computed, and every process adds up all parts in the same order. Noise belongs to
the part (its step and place in the batch), not to the process. With another number of parts, or without parts, sums
are taken in another order, and weights differ in their last bits.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from edgepep import plain, sealed
from edgepep.errors import EdgepepError, Stopped
from edgepep.group import PARTS, Group
from edgepep.integer_weights import IntegerWeights
from edgepep.local import Factor, Gradient, dense_gradient
from edgepep.rule import Outcome, Rule
from edgepep.updater import InPlaceSGD

if TYPE_CHECKING:
    from edgepep.loop import Loop


class Collected:
    """Stands in for a layer's updater, and keeps what the layers hand over while one part is learned."""

    follow = False

    def __init__(self) -> None:
        self.held: dict[nn.Parameter, Tensor] = {}
        self.share = 1.0

    def apply(self, parameter: nn.Parameter, gradient: Gradient, scale: Factor = 1.0) -> None:
        """Keep scale * gradient, by this part's share of the batch."""
        value = torch.mul(dense_gradient(gradient), scale * self.share)  # type: ignore[arg-type]
        self.held[parameter] = self.held[parameter] + value if parameter in self.held else value

    def response(self, weight: nn.Parameter, rows: Tensor) -> Tensor:
        """Return rows @ weight.T."""
        return rows @ weight.t()


class Parallel:
    """A rule's step, shared among the processes of a group; called as the rule is.

    Args:
        rule: whose network's layers learn through `optimizer`, after all parts are there.
        optimizer: an InPlaceSGD of the network.
        group: of processes.
        example: the same batch of inputs and of targets on every process; on it the rule calibrates what it
            calibrates once.
        stop: which signal has asked to stop, 0 if none has. The first process's counts, for all: `stopped` says it
            after each step.

    Raises:
        EdgepepError: if a step of the rule changes more than weights: its parts cannot be learned apart.

    """

    def __init__(
        self,
        rule: Rule,
        optimizer: InPlaceSGD,
        group: Group,
        example: tuple[Tensor, Tensor],
        stop: Callable[[], int] | None = None,
    ) -> None:
        self.rule, self.optimizer, self.group, self.stop = rule, optimizer, group, stop
        self.stopped = 0
        self.collected = Collected()
        self.counters = _counters(rule)
        names = self._tried(example)
        for layer in rule.network.chain:
            layer.updater = self.collected
        self.parameters = [p for name, p in rule.named_parameters() if name in names]

    def __call__(self, x: Tensor, target: Tensor, samples: Tensor | None = None) -> Outcome:
        """Learn from a batch, the same on every process; the outcome is that of the whole batch."""
        group, counts = self.group, [counter.clone() for counter in self.counters]
        per = PARTS // group.size
        pieces = list(zip(x.tensor_split(PARTS), target.tensor_split(PARTS), strict=True))
        logits, updates = [], []
        for i in range(group.rank * per, (group.rank + 1) * per):
            for counter, count in zip(self.counters, counts, strict=True):
                counter.copy_(count + i)
            self.collected.held, self.collected.share = {}, len(pieces[i][1]) / len(target)
            if len(pieces[i][1]):  # the last batch of an epoch may have fewer samples than parts
                logits.append(self.rule(*pieces[i]).logits)
            updates.append(self.collected.held)
        for counter, count in zip(self.counters, counts, strict=True):
            counter.copy_(count + PARTS)
        self._learn(updates)
        return Outcome(self._answers(logits, x, target), target)

    @torch.no_grad()
    def _learn(self, updates: list[dict[nn.Parameter, Tensor]]) -> None:
        """Add up all parts' updates, in their order, parameter by parameter, and hand them to the optimizer."""
        for parameter in self.parameters:
            nothing = torch.zeros(parameter.shape, device=parameter.device)
            parts = self.group.gathered(torch.stack([update.get(parameter, nothing) for update in updates]))
            total, *rest = parts.flatten(0, 1).unbind(0)
            for part in rest:
                total = total + part
            self.optimizer.apply(parameter, total)

    def _answers(self, logits: list[Tensor], x: Tensor, target: Tensor) -> Tensor:
        """Logits of the whole batch, and what the first process says of stopping."""
        sizes = [sum(map(len, share)) for share in _shares(target.tensor_split(PARTS), self.group.size)]
        classes = self.classes
        mine = torch.zeros(max(sizes) * classes + 1, device=x.device)
        own = torch.cat(logits).flatten() if logits else mine[:0]
        mine[: len(own)] = own
        mine[-1] = float(self.stop() if self.stop else 0)
        told = self.group.gathered(mine)
        self.stopped = int(told[0, -1])
        rows = [part[: size * classes].view(size, classes) for part, size in zip(told, sizes, strict=True)]
        return torch.cat(rows)

    def _tried(self, example: tuple[Tensor, Tensor]) -> set[str]:
        """Names of the parameters that a step hands over; what a rule calibrates once is calibrated before."""
        first, tried = copy.deepcopy(self.rule), copy.deepcopy(self.rule)
        for part in (first, tried):
            for layer in part.network.chain:
                layer.updater = Collected()
        first(*example)
        own = {name: value for name, value in first.state_dict().items() if not name.startswith("network.")}
        for part in (self.rule, tried):
            part.load_state_dict(own, strict=False)
        self.classes = tried(*example).logits.shape[1]
        counters = set(map(id, _counters(tried)))
        before = dict(self.rule.named_buffers())
        for name, buffer in tried.named_buffers():
            if id(buffer) not in counters and not torch.equal(buffer, before[name]):
                raise EdgepepError(
                    f"a step of {type(self.rule).__name__} on this network changes {name} besides the weights, so "
                    "parts of a batch cannot be learned apart; train it in one process."
                )
        held = {p for layer in tried.network.chain for p in layer.updater.held}  # type: ignore[union-attr]
        return {name for name, parameter in tried.named_parameters() if parameter in held}


def _shares(pieces: Any, size: int) -> list[Any]:
    per = PARTS // size
    return [pieces[i * per : (i + 1) * per] for i in range(size)]


def _counters(rule: Rule) -> list[Tensor]:
    """Counters of the noise that each step draws anew."""
    noisy = [m for m in rule.network.modules() if hasattr(m, "renew") and hasattr(m, "step")]
    return [m.step for m in noisy if not isinstance(m, IntegerWeights)]  # type: ignore[misc]


def begin_together(loop: Loop, group: Group) -> None:
    """Stand where the first process stands: at the beginning, or where it goes on with a run."""
    content = group.from_first(_packed(loop.state_dict()) if group.rank == 0 else b"")
    if group.rank:
        loop.load_state_dict(_unpacked(content))


def follow(loop: Loop, group: Group, step: Parallel) -> None:
    """Do this process' share of a run that the first process keeps.

    Raises:
        Stopped: when the first process stops.

    """
    loop.test = loop.held_out = loop.watch = None
    begin_together(loop, group)

    def obey(outcome: Outcome) -> None:
        if step.stopped:
            raise Stopped(f"process {group.rank} stops with the first.", step.stopped)

    loop.after_step = obey
    for _ in loop.run():
        pass


def _packed(state: Any) -> bytes:
    from safetensors.torch import save

    text, tensors = plain.pack(state)
    packed: bytes = len(text).to_bytes(8, "little") + text + save(tensors)
    return packed


def _unpacked(content: bytes) -> Any:
    end = 8 + int.from_bytes(content[:8], "little")
    return plain.unpack(content[8:end], sealed.tensors_of(content[end:]))
