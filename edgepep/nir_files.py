"""Networks read from files of the Neuromorphic Intermediate Representation (Pedersen et al. 2024), and its terms.

NIR defines neurons by differential equations and leaves their steps to the reader. Here, as in snnTorch, a step is an
Euler step of DT seconds, input current and spikes are of one step, and the reset is in the step of the spike:

    LIF        tau v' = v_leak - v + r I                     u = beta u + I,  beta = 1 - DT / tau,  r = tau / DT
    CubaLIF    tau_syn i' = -i + w_in I, then as a LIF       i = alpha i + I, u = beta u + i, w_in = tau_syn / DT
    IF         v' = r I                                      u = u + I,  r = 1 / DT

each with v_leak = v_reset = 0. Nodes have no batch axis: Flatten starts at 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgepep.errors import ExportError
from edgepep.network import Layer, Network
from edgepep.neurons import Frames, Latency, Leaky, Poisson, Rate, Repeat, Synaptic

DT = 1e-4
"""Seconds of a step, which a NIR file does not say: snnTorch's."""
KEY = "edgepep"
"""Of the graph's metadata that are ours: code, steps, and where the mean over time is taken."""


def package() -> Any:
    """Import nir.

    Raises:
        ExportError: if it is not installed.

    """
    try:
        import nir
    except ImportError as error:
        raise ExportError("NIR files need the package nir: pip install 'edgepep[nir]'.") from error
    return nir


def load(path: Path | str, steps: int | None = None) -> Network:
    """Read a row of layers of spiking neurons, as the target nir_graph writes them, with its weights.

    Surrogate derivatives, dropout, and which layers rest, are not in a file.

    Args:
        path: a NIR file.
        steps: time steps over which it runs; else as many as it was written for.

    Raises:
        ExportError: if the file cannot be read, or is not what edgepep computes; the message names the node.

    """
    nir = package()
    try:
        graph = nir.read(str(path))
    except (OSError, KeyError, ValueError, TypeError, AssertionError, AttributeError) as error:
        raise ExportError(f"nir cannot read {path}: {str(error).splitlines()[0] if str(error) else error!r}") from error
    kept = graph.metadata.get(KEY, {})
    return Network(_layers(_row(graph), kept.get("rate", "input")), _encoder(kept, steps, path))


def _row(graph: Any) -> list[tuple[str, Any]]:
    """Nodes between input and output, in order.

    Raises:
        ExportError: if they are not in a row.

    """
    after = dict(graph.edges)
    inputs = [name for name, node in graph.nodes.items() if type(node).__name__ == "Input"]
    names = inputs[:1]
    while names and names[-1] in after and len(names) < len(graph.nodes):
        names.append(after[names[-1]])
    if len(names) != len(graph.nodes) or len(graph.edges) != len(names) - 1:
        raise ExportError("the nodes of the NIR graph are not in a row from one input to one output.")
    return [(name, graph.nodes[name]) for name in names[1:-1]]


def _layers(row: Sequence[tuple[str, Any]], rate: str) -> list[Layer]:
    layers: list[Layer] = []
    prepare: list[nn.Module] = []
    synapses, called = None, ""
    for name, node in row:
        kind = type(node).__name__
        if kind in _NEURONS and synapses is not None:
            layers.append(Layer(synapses, _NEURONS[kind](name, node), nn.Sequential(*prepare), Rate(), called))
            prepare, synapses = [], None
        elif kind in _PREPARE and synapses is None:
            prepare.append(_PREPARE[kind](name, node))
        elif kind in _SYNAPSES and synapses is None:
            synapses, called = _SYNAPSES[kind](name, node), node.metadata.get("layer", "")
        else:
            allowed = "neurons" if synapses is not None else "Flatten, AvgPool2d or synapses"
            raise ExportError(f"NIR node {name} is {kind}; there must be {allowed}.")
    if synapses is not None and rate == "output":
        layers.append(Layer(synapses, None, nn.Sequential(*prepare), Rate(), called))
    elif synapses is not None:
        layers.append(Layer(synapses, None, nn.Sequential(Rate(), *prepare), name=called))
    return layers


def _encoder(kept: dict[str, Any], steps: int | None, path: Path | str) -> nn.Module:
    code = kept.get("code", "constant")
    if code == "frames":
        return Frames()
    if steps is None and "steps" not in kept:
        raise ExportError(f"{path} does not say over how many time steps it runs; give steps.")
    steps = int(kept["steps"]) if steps is None else steps
    if code == "poisson":
        poisson = Poisson(steps, int(kept["seed"]))
        poisson.step.fill_(int(kept["step"]))
        return poisson
    return Latency(steps, float(kept["floor"])) if code == "latency" else Repeat(steps)


def _pair(value: Any) -> tuple[int, int]:
    first, *rest = np.ravel(value).tolist()
    return int(first), int(rest[0] if rest else first)


def _linear(name: str, node: Any) -> nn.Module:
    if node.weight.ndim != 2:
        raise ExportError(f"NIR node {name}: weight has the shape {list(node.weight.shape)}; it must be a matrix.")
    bias = getattr(node, "bias", None)
    made = nn.Linear(node.weight.shape[1], node.weight.shape[0], bias=bias is not None)
    return _filled(made, node.weight, bias)


def _conv(name: str, node: Any) -> nn.Module:
    outputs, inputs, *kernel = node.weight.shape
    made = nn.Conv2d(
        inputs * int(node.groups),
        outputs,
        tuple(kernel),
        _pair(node.stride),
        node.padding if isinstance(node.padding, str) else _pair(node.padding),
        _pair(node.dilation),
        int(node.groups),
        bias=bool(np.any(node.bias)),  # NIR has no convolution without; zeros stand for none
    )
    return _filled(made, node.weight, node.bias)


@torch.no_grad()
def _filled(made: nn.Linear | nn.Conv2d, weight: Any, bias: Any) -> nn.Module:
    made.weight.copy_(torch.from_numpy(weight))
    if made.bias is not None:
        made.bias.copy_(torch.from_numpy(bias))
    return made


def _flatten(name: str, node: Any) -> nn.Module:
    if len(node.output_type["output"]) != 1:
        raise ExportError(f"NIR node {name} keeps the axes {list(node.output_type['output'])}; it must leave one.")
    return nn.Flatten()


def _pool(name: str, node: Any) -> nn.Module:
    return nn.AvgPool2d(_pair(node.kernel_size), _pair(node.stride), _pair(node.padding))


def _lif(name: str, node: Any) -> nn.Module:
    _demand(name, node, r=node.tau / DT)
    delay = bool(node.metadata.get("reset_delay", False))  # the same spikes; only the surrogate's reset is another
    return Leaky(_decay(node.tau), _value(node.v_threshold), reset_mechanism="zero", reset_delay=delay)


def _if(name: str, node: Any) -> nn.Module:
    _demand(name, node, r=1 / DT)
    delay = bool(node.metadata.get("reset_delay", False))
    return Leaky(1.0, _value(node.v_threshold), reset_mechanism="zero", reset_delay=delay)


def _cuba(name: str, node: Any) -> nn.Module:
    _demand(name, node, r=node.tau_mem / DT, w_in=node.tau_syn / DT)
    alpha, beta = _decay(node.tau_syn), _decay(node.tau_mem)
    return Synaptic(alpha, beta, _value(node.v_threshold), reset_mechanism="zero", reset_delay=False)


def _demand(name: str, node: Any, **values: Any) -> None:
    """Raise ExportError unless what the node scales, leaks to and resets to is what edgepep's neurons do."""
    for key, value in {"v_leak": 0.0, "v_reset": 0.0, **values}.items():
        given = getattr(node, key, 0.0)
        if not np.allclose(given, value, rtol=1e-6, atol=0.0):
            first, must = float(np.ravel(given)[0]), float(np.ravel(value)[0])
            raise ExportError(f"NIR node {name}: {key} is {first:g}; it must be {must:g} where a step is {DT:g} s.")


def _decay(tau: Any) -> float | Tensor:
    return _value(1 - DT / np.asarray(tau, np.float64))


def _value(values: Any) -> float | Tensor:
    """One number if all are the same, else one a neuron, in 32-bit floats."""
    given = torch.from_numpy(np.asarray(values, np.float32))
    first = given.flatten()[0]
    return float(first) if bool((given == first).all()) else given


_SYNAPSES = {"Affine": _linear, "Linear": _linear, "Conv2d": _conv}
_PREPARE = {"Flatten": _flatten, "AvgPool2d": _pool}
_NEURONS = {"LIF": _lif, "CubaLIF": _cuba, "IF": _if}
