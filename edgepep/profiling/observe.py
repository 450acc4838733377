"""Run a step of a rule under observation, and sum up what it cost."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from edgepep import datasets, phases
from edgepep.build import rule_class
from edgepep.errors import EdgepepError
from edgepep.models import Recipe, load
from edgepep.network import Network
from edgepep.profiling.trace import Buffer, Trace, Watch, living_at
from edgepep.rounding import parts
from edgepep.rule import Rule
from edgepep.updater import InPlaceSGD

KEPT, ROLLING, GRADIENTS = "activations kept", "activations rolling", "gradients"
PARAMETERS, FEEDBACK, OPTIMIZER, BATCH = "parameters", "feedback F", "optimizer state", "batch"


@dataclass(frozen=True)
class Costs:
    """What one training step of a rule costs in torch: MACs by phase, and bytes by what they hold at the peak."""

    rule: str
    batch: int
    macs: dict[str, int]
    memory: dict[str, int]
    moment: str
    """The phase in which memory peaks."""
    trace: Trace = field(repr=False, default_factory=Trace)
    shapes: frozenset[torch.Size] = frozenset()
    """Of the weights."""

    @property
    def total_macs(self) -> int:
        """All multiply-accumulates of the step."""
        return sum(self.macs.values())

    @property
    def total_memory(self) -> int:
        """Bytes at the peak."""
        return sum(self.memory.values())


def observe(
    rule: Rule, x: Tensor, target: Tensor, optimizer: Any, name: str = "", looking: bool = False, around: Any = None
) -> Costs:
    """Run two training steps, the first to let the optimizer make its state, and count the second.

    Args:
        rule: runs the step; its network's weights change.
        x: inputs [batch, ...].
        target: class indices [batch].
        optimizer: an InPlaceSGD, or anything with zero_grad, step and state, such as a torch optimizer.
        name: of the rule, for the report.
        looking: look for zeros in the inputs of products too.
        around: a context to run the step in.

    """
    few = slice(0, 2 if len(x) > 1 else 1)  # enough to make the optimizer's state; normalisation wants two
    rule(x[few], target[few])
    optimizer.step()
    optimizer.zero_grad()
    fixed = _fixed(rule, optimizer)
    watch = Watch(fixed | {BATCH: [x, target]}, looking)
    with around or nullcontext(), watch:
        rule(x, target)
        optimizer.step()
    memory = {kind: _bytes(tensors) for kind, tensors in fixed.items()}
    shapes = frozenset(shape for p in rule.network.parameters() for shape in parts(p))
    peak, moment = _peak(watch.trace, shapes)
    macs = watch.trace.macs_by("phase")
    return Costs(name or type(rule).__name__.lower(), len(target), macs, memory | peak, moment, watch.trace, shapes)


def _peak(trace: Trace, shapes: frozenset[torch.Size]) -> tuple[dict[str, int], str]:
    """Bytes of what the step made, at the peak, by what they hold; and the phase of the peak."""
    best: list[Buffer] = []
    highest, moment, kept = 0, "", set[Buffer]()
    for now, alive in living_at(trace):
        here = trace.operations[now].phase
        if here not in (phases.FORWARD, phases.DRAW) and not kept:
            kept = {b for b in alive if b.phase == phases.FORWARD}
        total = sum(b.size for b in alive)
        if total > highest:
            highest, moment, best = total, here, alive
    memory = {KEPT: 0, ROLLING: 0, GRADIENTS: 0}
    for buffer in best:
        learning = buffer.phase in (phases.BACKWARD, phases.UPDATE)
        kind = GRADIENTS if learning and buffer.shape in shapes else KEPT if buffer in kept else ROLLING
        memory[kind] += buffer.size
    return memory, moment


def profile(
    model: Recipe | Network | str | Path,
    rule: str,
    *,
    batch: int = 64,
    in_place: bool = True,
    example: Tensor | None = None,
) -> Costs:
    """Costs of one training step under a rule; no data are read, and a network of yours is left as it is.

    Args:
        model: a recipe, its name or its .toml file, profiled on random inputs; or a network, such as `convert` makes.
        rule: a rule's name, or "package.module:Name".
        batch: samples in the step.
        in_place: apply each layer's update at once, holding no gradient; else torch.optim.SGD on `.grad`.
        example: for a network, some of its inputs [n, ...], repeated to make the batch.

    Raises:
        EdgepepError: if the model is something else, or example is missing, or given with a recipe.

    """
    if isinstance(model, (str, Path)):
        model = load(model)
    kind = InPlaceSGD if in_place else HeldSGD
    if isinstance(model, Network):
        network, x, target = _with_batch(model, example, batch)
        return observe(rule_class(rule)(network, x), x, target, kind(network, 0.01, 0.9), rule)
    if not isinstance(model, Recipe):
        raise EdgepepError(
            f"profile takes a recipe, a recipe's name or a Network, not a {type(model).__name__}; of a module, "
            "edgepep.convert(module, example) makes a Network."
        )
    if example is not None:
        raise EdgepepError(f"example is for a Network; {model.name} is a recipe, whose data have a shape.")
    network = model.under(rule).build()
    settings = model.settings(rule)
    x, target = random_batch(model, batch)
    optimizer = kind(network, settings.learning_rate, settings.momentum)
    return observe(model.make_rule(network, rule), x, target, optimizer, rule)


def _with_batch(network: Network, example: Tensor | None, batch: int) -> tuple[Network, Tensor, Tensor]:
    """A copy of a network, which no optimizer has, and a batch of example inputs and random classes."""
    if not isinstance(example, Tensor) or not example.dim() or not len(example):
        raise EdgepepError("to profile a Network, give some inputs of it: profile(network, rule, example=x).")
    network = copy.deepcopy(network)
    for layer in network.chain:
        layer.updater = layer.deferred = None
    x = example[torch.arange(batch, device=example.device) % len(example)]
    with torch.no_grad():
        classes = network.eval()(x[:1]).shape[1]
    return network.train(), x, torch.randint(classes, (batch,), device=x.device)


def random_batch(recipe: Recipe, batch: int) -> tuple[Tensor, Tensor]:
    """Random inputs and classes of the shapes of a recipe's data."""
    info = datasets.info(recipe.dataset)
    return torch.rand(batch, *info.shape), torch.randint(info.classes, (batch,))


class HeldSGD:
    """What torch.optim.SGD does with gradients held in `.grad`, without the seconds that a first optimizer takes."""

    def __init__(self, network: Network, lr: float, momentum: float) -> None:
        self.parameters, self.lr, self.momentum = list(network.parameters()), lr, momentum
        self.state: dict[Tensor, Tensor] = {}

    def zero_grad(self) -> None:
        """Let the gradients go."""
        for p in self.parameters:
            p.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Heavy-ball momentum."""
        for p in self.parameters:
            if p.grad is not None:
                if self.momentum and p not in self.state:
                    self.state[p] = torch.zeros_like(p)
                step = self.state[p].mul_(self.momentum).add_(p.grad) if self.momentum else p.grad
                p.add_(step, alpha=-self.lr)


def _fixed(rule: Rule, optimizer: Any) -> dict[str, list[Tensor]]:
    """What outlives the step, by what it holds."""
    own = dict(rule.named_buffers())
    followed = optimizer.followed() if isinstance(optimizer, InPlaceSGD) else []
    return {
        PARAMETERS: [*rule.network.parameters(), *rule.network.buffers()],
        FEEDBACK: [b for name, b in own.items() if not name.startswith("network.")],
        OPTIMIZER: [*followed, *(t for t in tree_leaves(list(optimizer.state.values())) if isinstance(t, Tensor))],
    }


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}.values())
