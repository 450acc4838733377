"""A spiking module that loops over time by itself, taken back to one step of its loop."""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from edgepep.errors import ConversionError
from edgepep.foreign import spikes

_INDEX = {operator.getitem, torch.select}


class OneStep(NamedTuple):
    """The first step of a loop, how many there are, and whether each reads a time step of the data."""

    graph: fx.Graph
    steps: int
    frames: bool


def one_step(graph: fx.Graph, root: nn.Module) -> OneStep | None:
    """Return one step of the loop that torch.fx has unrolled, or None if no spiking module is called more than once.

    Raises:
        ConversionError: if the answer is not the output spikes of all steps, stacked, or their mean.

    """
    modules = dict(root.named_modules())
    calls: dict[str, int] = {}
    for node in graph.nodes:
        if node.op == "call_module" and spikes(modules[str(node.target)]):
            calls[str(node.target)] = calls.get(str(node.target), 0) + 1
    if not calls or max(calls.values()) == 1:
        return None
    if len(set(calls.values())) > 1:
        counts = ", ".join(f"{name} {count} times" for name, count in calls.items())
        raise ConversionError(f"the loop over time calls {counts}; each step calls every spiking module once.")
    recorded = _recorded(graph)
    steps = max(calls.values())
    if len(recorded) != steps:
        raise ConversionError(f"the loop over time has {steps} steps, but {len(recorded)} answers are stacked.")
    return _copied(graph, recorded[0], modules, steps)


def _recorded(graph: fx.Graph) -> list[fx.Node]:
    """The answer of every step, in order."""
    (output,) = [node for node in graph.nodes if node.op == "output"]
    answer: Any = output.args[0]
    while isinstance(answer, (tuple, list)) and answer and isinstance(answer[0], fx.Node):
        answer = answer[0]  # (spikes, potentials)
    if isinstance(answer, fx.Node) and _called(answer) == "mean":
        answer = answer.args[0]
    if not isinstance(answer, fx.Node) or _called(answer) != "stack" or not isinstance(answer.args[0], (tuple, list)):
        kind = _called(answer) if isinstance(answer, fx.Node) else type(answer).__name__
        raise ConversionError(
            f"the loop over time ends in {kind}; return torch.stack of the output spikes of all steps, or its mean(0)."
        )
    return list(answer.args[0])


def _copied(graph: fx.Graph, answer: fx.Node, modules: dict[str, nn.Module], steps: int) -> OneStep:
    """Copy what one answer depends on: spiking modules without their states, the data without their time index."""
    needed, waiting = set(), [answer]
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            spiking = node.op == "call_module" and spikes(modules[str(node.target)])
            waiting += [a for a in node.args[:1] if isinstance(a, fx.Node)] if spiking else node.all_input_nodes
    made = fx.Graph()
    known: dict[fx.Node, fx.Node] = {}
    frames = False
    for node in graph.nodes:
        if node not in needed and node.op != "placeholder":
            continue
        source = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
        if node.op == "call_module" and spikes(modules[str(node.target)]):
            assert source is not None
            known[node] = made.call_module(str(node.target), (known[source],))
        elif node.target in _INDEX and source is not None and _spiking_call(source, modules):
            if node.args[1] != 0:
                raise ConversionError(f"the potential of {source.target} is read; rules and networks read its spikes.")
            known[node] = known[source]
        elif node.target in _INDEX and source is not None and source.op == "placeholder" and node.args[-1] == 0:
            frames, known[node] = True, known[source]
        else:
            known[node] = made.node_copy(node, lambda n: known[n])
    made.output(known[answer])
    return OneStep(made, steps, frames)


def _spiking_call(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    return node.op == "call_module" and spikes(modules[str(node.target)])


def _called(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))
