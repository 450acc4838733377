"""Spiking networks as ONNX graphs: over a free number of time steps, or one step with its state in and out."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from edgepep.errors import ExportError
from edgepep.network import Network
from edgepep.neurons import Frames, Repeat, Spiking, Trace
from edgepep.time_axis import EachStep, through


class Spikes(NamedTuple):
    """How a written file agrees with the network on some samples, spike for spike."""

    samples: int
    max_difference: float
    """Of the logits."""
    agreement: int
    """Samples that are given the same class."""
    spikes: int
    """Values of all populations over all steps, each a spike or none."""
    flips: int
    """Of these, how many differ."""

    def __str__(self) -> str:
        return (
            f"max |difference| {self.max_difference:.2g}, same class {self.agreement} of {self.samples}, "
            f"{self.flips} of {self.spikes} differ, spike or none"
        )


class OverTime(nn.Module):
    """A network's forward pass from what one file is given: data and a clock, frames, or spikes.

    Args:
        network: with a code and layers over time; its code is taken off.

    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.frames = type(network.encode) is Frames
        network.encode, network.window = nn.Identity(), None
        self.network = network

    def forward(self, x: Tensor, clock: Tensor | None = None) -> Tensor:
        """Logits [batch, classes]; a constant current [batch, ...] lasts as long as the clock [time]."""
        if clock is not None:
            x = x.unsqueeze(0) + 0 * clock.view(-1, *[1] * x.dim())
        elif self.frames:
            x = x.transpose(0, 1)
        logits: Tensor = self.network(x)
        return logits


class OneStep(nn.Module):
    """One step of time: from an input and the states of all populations to the readout, new states and spikes.

    The answer of the network is the mean of the readouts of all steps.

    Args:
        network: whose readout reads rates.

    Raises:
        ExportError: if a layer reads a trace.

    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        network.window = None
        for layer in network.chain:
            if any(isinstance(m, Trace) for m in layer.modules()):
                raise ExportError(f"layer {layer.name} reads a trace; a graph of single steps is for rates.")
        self.network = network
        self.populations = populations(network)

    def rest(self, x: Tensor) -> tuple[Tensor, ...]:
        """States before the first step, for an input [batch, ...] of one step."""
        count = sum(f.states for f in self.populations)
        return tuple(torch.zeros_like(state) for state in self._run(x, None)[1 : 1 + count])

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Readout [batch, classes], new states, spikes of each population."""
        return self._run(x, list(states))

    def _run(self, x: Tensor, states: list[Tensor] | None) -> tuple[Tensor, ...]:
        posts: list[Tensor] = []
        after: list[Tensor] = []
        spikes: list[Tensor] = []
        for i, layer in enumerate(self.network.chain):
            h = self.network.gathered(posts, i) if i else x
            if not layer.over_time:
                posts.append(layer(h.unsqueeze(0) if i and self.network.chain[i - 1].over_time else h).post)
                continue
            h = layer.synapses(through(layer.prepare, h))
            for module in layer.neurons if isinstance(layer.neurons, nn.Sequential) else [layer.neurons]:
                if isinstance(module, Spiking):
                    given = module.rest(h) if states is None else tuple(states.pop(0) for _ in range(module.states))
                    new, h = module.advance(given, h)
                    after += new
                    spikes.append(h)
                else:
                    h = module.module(h) if isinstance(module, EachStep) else through(module, h)
            posts.append(h)
        return (posts[-1], *after, *spikes)


def populations(network: Network) -> list[Spiking]:
    """Spiking populations of a network, in the order in which they run."""
    return [m for layer in network.chain for m in layer.neurons.modules() if isinstance(m, Spiking)]


@torch.no_grad()
def spikes_of(network: Network, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits, and the spikes [time, batch, ...] of each population, of a network in evaluation mode."""
    window, network.window, seen = network.window, None, []
    hooks = [f.register_forward_hook(lambda _, __, spikes: seen.append(spikes)) for f in populations(network)]
    try:
        return network(x), seen
    finally:
        for hook in hooks:
            hook.remove()
        network.window = window


def compared(network: Network, x: Tensor, logits: Tensor, spikes: list[Tensor]) -> Spikes:
    """Compare what a file answers to some data with what the network does."""
    want, fired = spikes_of(network, x)
    if want.shape != logits.shape or [s.shape for s in fired] != [s.shape for s in spikes]:
        raise ExportError(f"the file answers {list(logits.shape)} where the network answers {list(want.shape)}.")
    return Spikes(
        len(x),
        float((want - logits).abs().max()),
        int((want.argmax(1) == logits.argmax(1)).sum()),
        sum(s.numel() for s in spikes),
        sum(int((a != b).sum()) for a, b in zip(fired, spikes, strict=True)),
    )


def together(parts: list[Spikes]) -> Spikes:
    """One comparison of several batches."""
    return Spikes(
        sum(p.samples for p in parts),
        max(p.max_difference for p in parts),
        sum(p.agreement for p in parts),
        sum(p.spikes for p in parts),
        sum(p.flips for p in parts),
    )


def given_to(network: Network, x: Tensor) -> Tensor:
    """What a file of a network is given for some data: themselves, or their spikes [time, batch, ...]."""
    code: Tensor = through(network.encode, x)
    return x if type(network.encode) in (Repeat, Frames) else code


def default_clock(path: Path, steps: int) -> None:
    """Put a free number of steps in the place of the input `clock`: the input `steps` [1], which may be left out."""
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load(path)
    graph = model.graph
    (clock,) = [value for value in graph.input if value.name == "clock"]
    graph.input.remove(clock)
    graph.input.append(helper.make_tensor_value_info("steps", TensorProto.INT64, [1]))
    graph.initializer.append(helper.make_tensor("steps", TensorProto.INT64, [1], [steps]))
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0])
    graph.node.insert(0, helper.make_node("ConstantOfShape", ["steps"], ["clock"], value=zero))
    onnx.checker.check_model(model)
    onnx.save(model, path)


def with_spikes(path: Path, count: int) -> bytes:
    """An ONNX file's bytes, with the spikes of each Scan as further outputs.

    Raises:
        ExportError: if there are not as many Scans as populations.

    """
    import onnx

    model = onnx.load(path)
    scans = [node for node in model.graph.node if node.op_type == "Scan"]
    if len(scans) != count:
        raise ExportError(f"{path} has {len(scans)} scans over time; the network has {count} spiking populations.")
    present = {value.name for value in model.graph.output}
    known = {value.name: value for value in model.graph.value_info}
    for node in scans:
        name = node.output[-1]
        if name not in present:
            model.graph.output.append(known.get(name, onnx.ValueInfoProto(name=name)))
    content: bytes = model.SerializeToString()
    return content
