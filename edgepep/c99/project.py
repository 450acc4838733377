"""From a network and a rule to a folder of C that compiles for a host or a board, and what it will need."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from edgepep.c99 import layout, source
from edgepep.c99 import samples as given
from edgepep.c99.feedback import Drawn, drawn
from edgepep.c99.rules import RULES, inference
from edgepep.c99.schedule import Arena, Schedule, arranged
from edgepep.c99.table import Stage, stages, with_heads
from edgepep.errors import ExportError
from edgepep.folders import EXPORT
from edgepep.folding import folded
from edgepep.groups import factors
from edgepep.integer_weights import IntegerWeights, with_integer_weights
from edgepep.network import Network
from edgepep.rule import Rule

KIT = EXPORT / "c99"
PRECISIONS = ("fp32", "int8")


@dataclass(frozen=True)
class Plan:
    """What will be written, and what it will need; sizes in bytes, multiply-accumulates of one sample."""

    stages: tuple[Stage, ...]
    rule: str
    """Name, or "" if it only infers."""
    infer: tuple[Schedule, Arena]
    learn: tuple[Schedule, Arena] | None
    feedback: dict[str, Drawn] = field(default_factory=dict)
    """By name: PEPITA's "F", or the map of each layer, "D0"."""
    rates: dict[int, float] = field(default_factory=dict)
    """Factor of the learning rate, by layer."""

    @property
    def arena(self) -> int:
        """Bytes of all that comes and goes, scratch included."""
        return 4 * max(arena.size for _, arena in (self.infer, self.learn or self.infer))

    @property
    def weights(self) -> int:
        """Bytes of the weights that learn, which are in RAM."""
        return layout.learned(self.stages, self.learn is not None)

    @property
    def ram(self) -> int:
        """Bytes of static memory: weights, arena and counters."""
        return self.weights + self.arena + source.STATE

    @property
    def macs(self) -> int:
        """Multiply-accumulates of a training step, or of an inference if there is no rule."""
        return (self.learn or self.infer)[0].macs

    @property
    def precision(self) -> str:
        """Of the weights."""
        return "int8" if any(stage.bits for stage in self.stages) else "fp32"

    def describe(self) -> dict[str, Any]:
        """What is predicted, ready for JSON."""
        return {
            "rule": self.rule or "none",
            "precision": self.precision,
            "weights_bytes": self.weights,
            "arena_bytes": self.arena,
            "ram_bytes": self.ram,
            "macs": self.macs,
            "inference_macs": self.infer[0].macs,
        }


def plan(
    network: Network,
    example: Tensor,
    rule: Rule | None = None,
    precision: str | None = None,
    rates: Mapping[str, float] | None = None,
) -> Plan:
    """Read a network and a rule, and find the memory of a step.

    Args:
        network: as trained; it is not changed.
        example: one batch of inputs [batch, ...].
        rule: whose step is written; its options and its feedback are taken over. None: inference only.
        precision: of the weights: "fp32", "int8", which rounds plain ones, or None: as they are.
        rates: factors of the learning rate, by the pattern of layers' names, as in training; 0 lets a layer rest.

    Raises:
        ExportError: for layers, rules or options that have no form in C.
        EdgepepError: for a rate that cannot be, or a pattern that matches no layer.

    """
    if precision is not None and precision not in PRECISIONS:
        raise ExportError(f"precision is {precision!r}; it must be one of {', '.join(map(repr, PRECISIONS))}.")
    name = "" if rule is None else type(rule).__module__.rpartition(".")[2]
    if rule is not None and name not in RULES:
        raise ExportError(f"the rule {name} has no form in C. There are: {', '.join(RULES)}; or none, to infer only.")
    chain = stages(_at(network if rule is not None else folded(network, example), precision), example)
    if len({stage.bits for stage in chain if stage.weight is not None}) != 1:
        raise ExportError(
            "some layers have weights in floats and some in codes, or codes of other bits; in C all are one."
        )
    if name in ("last_layer", "frozen_hidden"):
        if getattr(rule, "lowest", chain[-1].index) != chain[-1].index:
            raise ExportError("the rule last_layer trains several layers; in C it trains one, or take backprop.")
        chain = [replace(stage, learns=stage.learns and stage is chain[-1]) for stage in chain]
    factor = [*factors(network, rates or {}).values()]
    chain = with_heads(chain, rule)
    chain = [replace(stage, learns=stage.learns and factor[stage.index] > 0) for stage in chain]
    if rule is not None:
        _refuse_halves(network)
    infer = inference(chain)
    learn = None if rule is None else _arranged(RULES[name](chain))
    start = None if learn is None else learn[1].offset(learn[0].input)
    return Plan(
        tuple(chain),
        name,
        (infer, arranged(infer, start)),
        learn,
        {} if rule is None else drawn(rule),
        {stage.index: factor[stage.index] * _factor(rule, stage, stage is chain[-1]) for stage in chain},
    )


def save(made: Plan, path: Path | str, about: str = "", samples: Sequence[tuple[Tensor, int]] = ()) -> None:
    """Write a folder: the generated files, the kernels, boards, and a Makefile.

    Args:
        made: from `plan`.
        path: the folder, which must not exist.
        about: what it is, for the first line of the generated files.
        samples: inputs and classes for bench.c, which runs them on a host or a board.

    """
    path = Path(path)
    path.mkdir()
    for file in sorted(KIT.iterdir()):
        if file.is_file():
            shutil.copy(file, path)
    size = made.arena // 4
    defines: dict[str, str] = {}
    for name, drawn_from in made.feedback.items():
        defines |= {f"{name}_KEY": f"0x{drawn_from.key:08x}u", f"{name}_BOUND": f"{drawn_from.bound.hex()}f"}
    about = about or f"{made.rule or 'inference'}, {made.precision}."
    texts = {
        "config.h": source.config(made.stages, size, about),
        "model.c": source.model(made.stages, made.infer, made.learn, defines, made.rates, about),
        "weights.c": source.weights(made.stages),
        "samples.c": given.source(samples, made.stages),
        "predicted.json": json.dumps(made.describe(), indent=2) + "\n",
    }
    for name, text in texts.items():
        (path / name).write_text(text, encoding="utf-8")


def _arranged(schedule: Schedule) -> tuple[Schedule, Arena]:
    return schedule, arranged(schedule)


def _at(network: Network, precision: str | None) -> Network:
    """The network with weights of a precision: itself, or a copy with rounded weights."""
    codes = [isinstance(layer.synapses, IntegerWeights) for layer in network.chain]
    if precision == "fp32" and any(codes):
        raise ExportError("precision is 'fp32', but the weights are integer codes already; leave it out.")
    if precision != "int8" or any(codes):
        return network
    twin = copy.deepcopy(network).eval()
    for place, layer in enumerate(twin.chain):
        if isinstance(layer.synapses, (nn.Linear, nn.Conv2d)):
            reach = 16.0 if layer is twin.chain[-1] else 2.0
            layer.synapses = with_integer_weights(layer.synapses, 8, reach=reach)
            layer.synapses.place = place
    return twin


def _refuse_halves(network: Network) -> None:
    """Raise ExportError for a layer whose weights learn and whose bias rests, or the other way round."""
    for layer in network.chain:
        learning = {parameter.requires_grad for parameter in layer.synapses.parameters()}
        if len(learning) > 1:
            raise ExportError(
                f"layer {layer.name}: its weights learn or its bias, not both; in C a layer learns whole."
            )


def _factor(rule: Rule | None, stage: Stage, last: bool) -> float:
    """Factor of the learning rate that the rule gives a layer."""
    power = getattr(rule, "position_power", 0.0)
    positions = stage.out_shape[1] * stage.out_shape[2]
    return 1.0 if last else float(positions) ** -power
