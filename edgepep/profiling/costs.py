"""Costs of a rule on a subject: operations, memory in torch, memory on a device, energy; each with its unit and tag."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

from edgepep.build import rule_class, rule_options
from edgepep.errors import EdgepepError
from edgepep.phases import AGAIN, FORWARD, SECOND
from edgepep.profiling.arena import Arena, plan
from edgepep.profiling.energy import CostTable
from edgepep.profiling.observe import FEEDBACK, OPTIMIZER, PARAMETERS, Costs, HeldSGD, observe
from edgepep.profiling.subject import Subject
from edgepep.profiling.trace import Operation, Trace
from edgepep.rule import Rule
from edgepep.updater import InPlaceSGD

PRECISIONS = {"fp32": 4.0, "fp16": 2.0, "int8": 1.0}
"""Bytes of a value on the device."""
HELD, CHECKPOINTED = "backprop, held", "backprop, checkpointed"


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes on a device, at batch 1 unless asked: weights that learn, an arena for all that comes and goes, and F."""

    weights: int
    arena: int
    feedback: int
    optimizer: int
    frozen: int
    """Weights that rest; they may stay in flash."""
    moment: str
    plan: Arena = field(repr=False)

    @property
    def ram(self) -> int:
        """All that has to be in RAM."""
        return self.weights + self.arena + self.feedback + self.optimizer


@dataclass(frozen=True)
class RuleCosts:
    """What a step of one rule costs."""

    rule: str
    precision: str
    torch: Costs
    """The step as torch runs it: counted."""
    device: DeviceMemory
    """The step as a device would run it: modelled."""
    device_step: Costs
    effective: tuple[float, float] | None = None
    """Multiply-accumulates with an input that is not zero, and accumulates of spikes; where data were given."""
    energy: float | None = None
    """Microjoules of a step on the device, an estimate."""
    energy_table: str | None = None
    measured: dict[str, float] = field(default_factory=dict)
    """Where asked for: "peak_bytes" from the allocator, "milliseconds" and their "ratio" to backprop."""

    @property
    def layers(self) -> dict[str, int]:
        """Multiply-accumulates of the step in torch, by layer."""
        return self.torch.trace.macs_by("layer")

    @property
    def elements(self) -> int:
        """Elements that element-wise operators computed."""
        return sum(o.elements for o in self.torch.trace.operations)

    @property
    def draws(self) -> int:
        """Random numbers drawn."""
        return self.torch.trace.draws

    @property
    def bytes_moved(self) -> int:
        """Bytes that operators read and wrote."""
        return _moved(self.torch.trace)


def costs(
    subject: Subject,
    rule: str,
    *,
    batch: int,
    device_batch: int = 1,
    precision: str = "fp32",
    seeded: bool = False,
    table: CostTable | None = None,
    samples: tuple[Tensor, Tensor] | None = None,
    frozen: tuple[str, ...] = (),
) -> RuleCosts:
    """Count one rule's step in torch at one batch size, and plan it for a device at another.

    Args:
        subject: what learns.
        rule: a rule's name; HELD and CHECKPOINTED are backprop in those ways.
        batch: samples of the step in torch.
        device_batch: samples of the step on a device.
        precision: of values on the device: "fp32", "fp16" or "int8".
        seeded: draw fixed feedback from its seed rather than store it.
        table: for the estimate of energy.
        samples: real data [batch, ...]: the share of zeros and of spikes is then counted too.
        frozen: patterns of the names of layers that rest.

    Raises:
        EdgepepError: for an unknown precision, or what making the rule raises.

    """
    if precision not in PRECISIONS:
        raise EdgepepError(f"precision is {precision!r}; it must be one of {', '.join(PRECISIONS)}.")
    step = partial(_step, subject, rule, seeded=seeded, frozen=frozen)
    there = step(batch, momentum=subject.momentum, follow=True, samples=samples)
    here = step(device_batch, momentum=0.0, follow=False, samples=None)
    width, trace = PRECISIONS[precision], here.trace
    device = _device(here, plan(trace, here.shapes, width, rule != HELD), width)
    elements = sum(o.elements for o in trace.operations)
    effective = _effective(there.trace.operations) if samples is not None else None
    energy = None if table is None else table.microjoules(here.total_macs, elements, _moved(trace, width), precision)
    return RuleCosts(rule, precision, there, device, here, effective, energy, table.name if table else None)


def _moved(trace: Trace, width: float = 4.0) -> int:
    """Bytes that the operators read and write."""
    return sum(b.at(width) for o in trace.operations for b in (*o.reads, *o.writes))


def prepared(subject: Subject, rule: str, batch: int, seeded: bool = False) -> Callable[[], None]:
    """Make a step of a rule that can be run again and again, as `costs` counts it in torch."""
    made, optimizer = _make(subject, rule, seeded, (), subject.momentum, True)
    x, target = subject.data(batch)

    def step() -> None:
        optimizer.zero_grad()
        made(x, target)
        optimizer.step()

    return step


def _make(
    subject: Subject, rule: str, seeded: bool, frozen: tuple[str, ...], momentum: float, follow: bool
) -> tuple[Rule, Any]:
    name = "backprop" if rule in (HELD, CHECKPOINTED) else rule
    options: dict[str, object] = {"checkpoints": True} if rule == CHECKPOINTED else {}
    if seeded and "storage" in rule_options(rule_class(name)):
        options["storage"] = "seed"
    if not momentum and "head_momentum" in rule_options(rule_class(name)):
        options["head_momentum"] = 0.0
    network = subject.network(name)
    network.freeze(*frozen)
    made = subject.rule(network, name, options)
    if rule == HELD:
        return made, HeldSGD(network, 1e-3, momentum)
    return made, InPlaceSGD(network, 1e-3, momentum, follow=follow)


def _step(
    subject: Subject,
    rule: str,
    batch: int,
    *,
    seeded: bool,
    frozen: tuple[str, ...],
    momentum: float,
    follow: bool,
    samples: tuple[Tensor, Tensor] | None,
) -> Costs:
    made, optimizer = _make(subject, rule, seeded, frozen, momentum, follow)
    x, target = samples or subject.data(batch)
    return observe(made, x, target, optimizer, rule, looking=samples is not None)


def _device(found: Costs, arena: Arena, width: float) -> DeviceMemory:
    written = {b for o in found.trace.operations for b in o.writes}

    def held(kind: str, learns: bool | None = None) -> int:
        chosen = (b for b in found.trace.buffers if b.kind == kind and learns in (None, b in written))
        return sum(b.at(width) for b in chosen)

    learning, resting = held(PARAMETERS, True), held(PARAMETERS, False)
    return DeviceMemory(learning, arena.size, held(FEEDBACK), held(OPTIMIZER), resting, arena.moment, arena)


def _effective(operations: list[Operation]) -> tuple[float, float]:
    """In the forward passes: multiply-accumulates with an input that is not zero, and accumulates of spikes."""
    operations = [o for o in operations if o.phase in (FORWARD, SECOND, AGAIN)]
    macs = sum(o.macs * o.density for o in operations if not o.binary)
    acs = sum(o.macs * o.density for o in operations if o.binary)
    return macs, acs
