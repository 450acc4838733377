"""One step under observation: every operator counted, every buffer followed from its birth to its release."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from edgepep import datasets, phases
from edgepep.models import Recipe
from edgepep.network import Network
from edgepep.profiling.operations import macs
from edgepep.rule import Rule
from edgepep.updater import InPlaceSGD

KEPT, ROLLING, GRADIENTS = "activations kept", "activations rolling", "gradients"
PARAMETERS, FEEDBACK, OPTIMIZER = "parameters", "feedback F", "optimizer state"


@dataclass(frozen=True)
class Costs:
    """What one training step of a rule costs: MACs by phase, and bytes by what they hold at the step's peak."""

    rule: str
    batch: int
    macs: dict[str, int]
    memory: dict[str, int]
    moment: str
    """The phase in which memory peaks."""

    @property
    def total_macs(self) -> int:
        """All multiply-accumulates of the step."""
        return sum(self.macs.values())

    @property
    def total_memory(self) -> int:
        """Bytes at the peak."""
        return sum(self.memory.values())


@dataclass(frozen=True, eq=False)
class _Buffer:
    size: int
    shape: torch.Size
    born: str


@dataclass
class _Watch(TorchDispatchMode):
    """Counts operators by phase and follows every storage that they make."""

    known: set[int]
    macs: Counter[str] = field(default_factory=Counter)
    living: dict[int, _Buffer] = field(default_factory=dict)
    now: int = 0
    peak: int = 0
    at_peak: list[_Buffer] = field(default_factory=list)
    moment: str = ""
    kept: set[_Buffer] = field(default_factory=set)
    """Buffers that were alive when the first forward pass had given its answer."""

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Tell torch not to import its compiler for us: that takes seconds, and nothing here is compiled."""
        return False

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = operator(*args, **(kwargs or {}))
        here = phases.current()
        count = macs(operator, args, answer)
        if count:
            self.macs[here or "other"] += count
        if here != phases.FORWARD and not self.kept:
            self.kept = {b for b in self.living.values() if b.born == phases.FORWARD}
        for leaf in tree_leaves(answer):
            if isinstance(leaf, Tensor):
                self._follow(leaf, here)
        return answer

    def _follow(self, tensor: Tensor, here: str) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.known or key in self.living or not storage.nbytes():
            return
        buffer = self.living[key] = _Buffer(storage.nbytes(), tensor.shape, here)
        self.now += buffer.size
        weakref.finalize(storage, self._release, key)
        if self.now > self.peak:
            self.peak, self.moment, self.at_peak = self.now, here, list(self.living.values())

    def _release(self, key: int) -> None:
        buffer = self.living.pop(key, None)
        if buffer is not None:
            self.now -= buffer.size


def observe(rule: Rule, x: Tensor, target: Tensor, optimizer: Any, name: str = "") -> Costs:
    """Run two training steps, the first to let the optimizer make its state, and count the second.

    Args:
        rule: runs the step; its network's weights change.
        x: inputs [batch, ...].
        target: class indices [batch].
        optimizer: an InPlaceSGD, or anything with zero_grad, step and state, such as a torch optimizer.
        name: of the rule, for the report.

    """
    for _ in range(2):
        optimizer.zero_grad()
        fixed = _fixed(rule, optimizer)
        watch = _Watch({key for tensors in (*fixed.values(), [x, target]) for key in _keys(tensors)})
        with watch:
            rule(x, target)
            optimizer.step()
    shapes = {p.shape for p in rule.network.parameters()}
    memory = {kind: _bytes(tensors) for kind, tensors in fixed.items()}
    memory |= {KEPT: 0, ROLLING: 0, GRADIENTS: 0}
    for buffer in watch.at_peak:
        learning = buffer.born in (phases.BACKWARD, phases.UPDATE)
        kind = GRADIENTS if learning and buffer.shape in shapes else KEPT if buffer in watch.kept else ROLLING
        memory[kind] += buffer.size
    return Costs(name or type(rule).__name__.lower(), len(target), dict(watch.macs), memory, watch.moment)


def profile(recipe: Recipe, rule: str, *, batch: int = 64, in_place: bool = True) -> Costs:
    """Costs of one training step of a recipe under a rule, on random inputs; no data are read.

    Args:
        recipe: from `edgepep.load`.
        rule: a rule's name.
        batch: samples in the step.
        in_place: apply each layer's update at once, holding no gradient; else torch.optim.SGD on `.grad`.

    """
    network = recipe.under(rule).build()
    settings = recipe.settings(rule)
    info = datasets.info(recipe.dataset)
    x, target = torch.rand(batch, *info.shape), torch.randint(info.classes, (batch,))
    kind = InPlaceSGD if in_place else _HeldSGD
    optimizer = kind(network, settings.learning_rate, settings.momentum)
    return observe(recipe.make_rule(network, rule), x, target, optimizer, rule)


class _HeldSGD:
    """What torch.optim.SGD does with gradients held in `.grad`, without the seconds that a first optimizer takes."""

    def __init__(self, network: Network, lr: float, momentum: float) -> None:
        self.parameters, self.lr, self.momentum = list(network.parameters()), lr, momentum
        self.state: dict[Tensor, Tensor] = {}

    def zero_grad(self) -> None:
        for p in self.parameters:
            p.grad = None

    @torch.no_grad()
    def step(self) -> None:
        for p in self.parameters:
            if p.grad is not None:
                if p not in self.state:
                    self.state[p] = torch.zeros_like(p)
                self.state[p].mul_(self.momentum).add_(p.grad)
                p.add_(self.state[p], alpha=-self.lr)


def _fixed(rule: Rule, optimizer: Any) -> dict[str, list[Tensor]]:
    """What outlives the step, by what it holds."""
    own = dict(rule.named_buffers())
    followed = optimizer.followed() if isinstance(optimizer, InPlaceSGD) else []
    return {
        PARAMETERS: [*rule.network.parameters(), *rule.network.buffers()],
        FEEDBACK: [b for name, b in own.items() if not name.startswith("network.")],
        OPTIMIZER: [*followed, *(t for t in tree_leaves(list(optimizer.state.values())) if isinstance(t, Tensor))],
    }


def _keys(tensors: Iterable[Tensor]) -> list[int]:
    return [t.untyped_storage()._cdata for t in tensors]


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}.values())
