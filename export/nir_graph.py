"""NIR graph in HDF5, for rows of spiking layers that reset to zero; read back and compared spike for spike.

What is written: Linear and Conv2d in 32-bit floats, Flatten and AvgPool2d before them; Leaky neurons as LIF (as IF
where beta is 1), Synaptic ones as CubaLIF, by the equations in edgepep.nir_files. Resets must be to zero: for Leaky
neurons with or without delay, which gives the same spikes, for Synaptic ones without. What NIR has no words for is
refused. The input of the graph is the code at each step; the answer of the network is the mean of the output node over
time. The graph's metadata say how data are coded, over how many steps.

`snntorch.import_nir.import_from_nir` answers with the same spikes, up to the order in which sums are rounded, one
sample at a time: it takes Flatten's first axis, which is not the batch's, for it. Thresholds must be one value a layer.
IF nodes it reads as neurons with a leak of 0.9 that subtract, and refuses these, whose r is 1 / DT.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from edgepep.errors import ExportError
from edgepep.layer import Activity, Layer
from edgepep.network import Network
from edgepep.neurons import Dropout, Frames, Latency, Leaky, Poisson, Rate, Repeat, Spiking, Synaptic
from edgepep.nir_files import DT, KEY, load, package

SUFFIX = ".nir"
TOLERANCE = 1e-5
"""Largest |difference| of a logit; of the spikes, none may differ."""


class Spikes(NamedTuple):
    """How a written file, read again, agrees with the network on some samples."""

    samples: int
    compared: int
    """Values of all layers over time, each a spike or none."""
    fired: int
    mismatches: int
    max_difference: float
    """Of the logits."""

    def __str__(self) -> str:
        return (
            f"{self.mismatches} of {self.compared} differ, spike or none ({self.fired} spikes); max |difference| of a "
            f"logit {self.max_difference:.2g}"
        )


def suits(network: Network) -> bool:
    """Whether the network has spiking neurons."""
    return any(isinstance(module, Spiking) for module in network.modules())


def save(network: Network, example: Tensor, path: Path) -> None:
    """Write the network as a NIR graph.

    Args:
        network: a row of spiking layers; it is not changed.
        example: [n, ...], from which shapes are taken.
        path: file to write.

    Raises:
        ExportError: if NIR cannot say what the network does; the message names the layer, the setting and what it
            must be.

    """
    nir, network = package(), _plain(network)
    kept = _code(network.encode)
    _refuse_sums_and_precisions(network)
    shape = example.shape[2 if kept["code"] == "frames" else 1 :]
    nodes: dict[str, Any] = {"input": nir.Input(np.array(shape))}
    with torch.no_grad():
        for i, (layer, activity) in enumerate(zip(network.chain, network.stream(example.cpu()), strict=True)):
            last = i == len(network.chain) - 1
            nodes.update((f"{kind}_{i}", node) for kind, node in _nodes(nir, layer, activity, last))
    nodes["output"] = nir.Output(np.array(activity.post.shape[2 if layer.over_time else 1 :]))
    kept["rate"] = "output" if layer.over_time else "input"
    kept["readout"] = "the answer is the mean of the output node over the time steps"
    kept["dt"] = DT
    names = list(nodes)
    try:
        graph = nir.NIRGraph(nodes, list(pairwise(names)), metadata={KEY: kept})
    except ValueError as error:
        raise ExportError(f"nir_graph: nir does not accept the graph: {error}") from error
    nir.write(str(path), graph)


@torch.no_grad()
def check(network: Network, path: Path, inputs: Tensor, batch: int = 250) -> Spikes:
    """Read a file again, and compare it with the network: every spike of every layer, and the logits.

    Args:
        network: what was written.
        path: the file.
        inputs: [n, ...], real ones.
        batch: how many go through both networks at once.

    Raises:
        ExportError: if a spike differs, or a logit by more than TOLERANCE.

    """
    ours, theirs = _plain(network), load(path).eval()
    compared = fired = mismatches = 0
    difference = 0.0
    for x in inputs.cpu().split(batch):
        for layer, a, b in zip(ours.chain, ours.stream(x), theirs.stream(x), strict=True):
            if layer.over_time and any(isinstance(m, Spiking) for m in layer.neurons.modules()):
                compared += a.post.numel()
                fired += int(a.post.count_nonzero())
                mismatches += int((a.post != b.post).sum())
        difference = max(difference, float((ours.readout(a.post) - theirs.readout(b.post)).abs().max()))
    found = Spikes(len(inputs), compared, fired, mismatches, difference)
    if mismatches or not difference <= TOLERANCE:
        raise ExportError(f"nir_graph: the file, read again, does not agree with the network: {found}.")
    return found


def _plain(network: Network) -> Network:
    """A copy that evaluates on the CPU, over all of time at once."""
    copied = copy.deepcopy(network).cpu().eval()
    copied.window = None
    return copied


def _code(encode: nn.Module) -> dict[str, Any]:
    if type(encode) is Repeat:
        return {"code": "constant", "steps": encode.steps}
    if type(encode) is Poisson:
        return {"code": "poisson", "steps": encode.steps, "seed": encode.seed, "step": int(encode.step)}
    if type(encode) is Latency:
        return {"code": "latency", "steps": encode.steps, "floor": encode.floor}
    if type(encode) is Frames:
        return {"code": "frames"}
    raise ExportError(f"nir_graph: the code is {type(encode).__name__}; it must be Repeat, Poisson, Latency or Frames.")


def _refuse_sums_and_precisions(network: Network) -> None:
    for i, (layer, sources) in enumerate(zip(network.chain, network.sources, strict=True)):
        if i and sources != (i - 1,):
            raise _refusal(layer, f"it reads layers {list(sources)}", f"layer {i - 1} alone")
        for name, value in layer.state_dict().items():
            if value.is_floating_point() and value.dtype is not torch.float32:
                raise _refusal(layer, f"{name} is of {value.dtype}", "torch.float32")


def _refusal(layer: Layer, what: str, allowed: str) -> ExportError:
    return ExportError(f"nir_graph: layer {layer.name}: {what}; a NIR file can hold {allowed}.")


def _nodes(nir: Any, layer: Layer, activity: Activity, last: bool) -> Iterator[tuple[str, Any]]:
    """A layer's nodes, each with the word that its name begins with."""
    prepare, neurons = _parts(layer.prepare), _parts(layer.neurons)
    if layer.over_time and type(layer.decode) is not Rate:
        raise _refusal(layer, f"it is read by {type(layer.decode).__name__}", "Rate")
    if not layer.over_time:
        if not last or not prepare or type(prepare[0]) is not Rate or neurons:
            raise _refusal(layer, "it is no layer over time", "such a layer at the end only: Rate, then synapses alone")
        prepare = prepare[1:]
    for n, module in enumerate(prepare):
        yield f"prepare{n}", _prepare(nir, layer, module)
    yield "synapses", _synapses(nir, layer)
    if layer.over_time and (neurons or not last):
        if len(neurons) != 1 or type(neurons[0]) not in (Leaky, Synaptic):
            names = " and ".join(type(m).__name__ for m in neurons) or "missing"
            raise _refusal(layer, f"neurons are {names}", "Leaky or Synaptic")
        yield "neurons", _neurons(nir, layer, neurons[0], tuple(activity.post.shape[2:]))


def _parts(module: nn.Module) -> list[nn.Module]:
    """Modules in their order, without those that do nothing in evaluation."""
    if type(module) is nn.Sequential:
        return [part for inner in module for part in _parts(inner)]
    idle = isinstance(module, (nn.Identity, Dropout, nn.modules.dropout._DropoutNd))
    return [] if idle else [module]


def _prepare(nir: Any, layer: Layer, module: nn.Module) -> Any:
    if type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1):
        return nir.Flatten(None, 0, -1)
    if type(module) is nn.AvgPool2d and not module.ceil_mode and not module.divisor_override:
        window = (module.kernel_size, module.stride, module.padding)
        size, stride, padding = (np.array([v, v] if isinstance(v, int) else v) for v in window)
        if module.count_include_pad or not padding.any():
            return nir.AvgPool2d(size, stride, padding)
    raise _refusal(layer, f"prepare holds {module}", "Flatten, and AvgPool2d with torch's defaults")


def _synapses(nir: Any, layer: Layer) -> Any:
    module, kept = layer.synapses, {"layer": layer.name}
    if type(module) is nn.Linear:
        weight = module.weight.detach().numpy()
        if module.bias is None:
            return nir.Linear(weight, metadata=kept)
        return nir.Affine(weight, module.bias.detach().numpy(), metadata=kept)
    if type(module) is not nn.Conv2d:
        raise _refusal(layer, f"synapses are {type(module).__name__}", "Linear or Conv2d")
    if module.kernel_size[0] != module.kernel_size[1] or module.groups != 1 or module.padding_mode != "zeros":
        what = f"kernel {list(module.kernel_size)}, groups {module.groups}, padding_mode {module.padding_mode!r}"
        raise _refusal(layer, what, "square kernels, 1 group and 'zeros': nir's check of shapes takes them so")
    bias = np.zeros(module.out_channels, np.float32) if module.bias is None else module.bias.detach().numpy()
    weight, padding, dilation = module.weight.detach().numpy(), module.padding, module.dilation
    return nir.Conv2d(None, weight, module.stride, padding, dilation, module.groups, bias, metadata=kept)


def _neurons(nir: Any, layer: Layer, neurons: Any, shape: tuple[int, ...]) -> Any:
    leaky = type(neurons) is Leaky
    if neurons.reset_mechanism != "zero":
        raise _refusal(layer, f"reset_mechanism is {neurons.reset_mechanism!r}", "'zero'")
    if neurons.reset_delay and not leaky:
        raise _refusal(layer, "reset_delay is True", "False for Synaptic neurons: the reset is in the spike's step")
    if neurons.inhibition:
        raise _refusal(layer, "inhibition is True", "False")
    if not neurons.plain_spikes:
        raise _refusal(layer, "graded_spikes_factor is set", "spikes of 1")
    threshold = _each(neurons.threshold, shape)
    if not (threshold > 0).all():
        raise _refusal(layer, f"a threshold is {threshold.min():g}", "thresholds above 0")
    beta, rest = _each(neurons.beta, shape).clip(0, 1), np.zeros(shape)
    kept = {"reset_delay": int(neurons.reset_delay)}
    if leaky and (beta == 1).all():
        return nir.IF(np.full(shape, 1 / DT), threshold, rest, metadata=kept)
    tau = _time_constant(layer, "beta", beta)
    if leaky:
        return nir.LIF(tau, tau / DT, rest, threshold, rest, metadata=kept)
    slow = _time_constant(layer, "alpha", _each(neurons.alpha, shape).clip(0, 1))
    return nir.CubaLIF(slow, tau, tau / DT, rest, threshold, rest, slow / DT)


def _each(value: float | Tensor, shape: tuple[int, ...]) -> Any:
    """One value a neuron: 32-bit floats, as 64-bit ones."""
    given = torch.as_tensor(value, dtype=torch.float32).detach().expand(1, *shape)[0]
    return given.double().contiguous().numpy()


def _time_constant(layer: Layer, name: str, decay: Any) -> Any:
    """Seconds from which the decay of a step follows, to the last bit."""
    if (decay >= 1).any():
        raise _refusal(layer, f"{name} is 1, without end", f"{name} below 1, or beta of 1 in all of a Leaky layer")
    tau = DT / (1 - decay)
    back = (1 - DT / tau).astype(np.float32)
    if (back != decay).any():
        lost = decay[back != decay].flat[0]
        raise _refusal(layer, f"{name} is {lost:g}, which its time constant does not give back", "0, or larger ones")
    return tau
