"""Batch normalisation folded into the weights before it, for where nothing learns any more."""

from __future__ import annotations

import copy
from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgepep.layer import Layer
from edgepep.network import Network
from edgepep.normalisation import Norm
from edgepep.synapses import PaddedConv2d

_PLAIN = (nn.Linear, nn.Conv1d, nn.Conv2d, PaddedConv2d)


@torch.no_grad()
def folded(network: Network, example: Tensor) -> Network:
    """Return a network that answers as this one does in evaluation, with fewer operations.

    W x + b, then (.. - mean) / sqrt(variance + eps) * scale + shift, is one linear map. Folded is what directly follows
    plain synapses; quantised ones, whose codes would change, those that several layers share, and layers over time stay
    as they are.

    Args:
        network: in any mode; it is not changed.
        example: one batch of inputs [batch, ...], for the shapes.

    """
    network = copy.deepcopy(network).eval()
    axes = [activity.current.dim() for activity in network.stream(example[:1])]
    used = Counter(layer.synapses for layer in network.chain)
    layers = [
        _folded(layer) if used[layer.synapses] == 1 and _of_features(layer, n) else layer
        for layer, n in zip(network.chain, axes, strict=True)
    ]
    return Network(layers, network.encode, network.sources).eval()


def _of_features(layer: Layer, axes: int) -> bool:
    """Whether what the synapses answer, of so many axes, has its features along axis 1, where they are normalised."""
    return axes == 2 if isinstance(layer.synapses, nn.Linear) else True


def _folded(layer: Layer) -> Layer:
    norm, rest = _first(layer.neurons)
    if type(layer.synapses) not in _PLAIN or layer.over_time or norm is None:
        return layer
    synapses = layer.synapses
    mean, variance = norm.running_mean, norm.running_var
    assert isinstance(mean, Tensor)
    assert isinstance(variance, Tensor)
    scale = (variance + norm.eps).rsqrt() * (norm.weight if norm.affine else 1.0)
    shift = (norm.bias if norm.affine else 0.0) - mean * scale
    weight: Tensor = synapses.weight  # type: ignore[assignment]
    bias: Tensor | None = synapses.bias  # type: ignore[assignment]
    synapses.bias = nn.Parameter(shift if bias is None else bias * scale + shift, requires_grad=False)
    weight.mul_(scale.view(-1, *[1] * (weight.dim() - 1)))
    return Layer(synapses, rest, layer.prepare, name=layer.name)


def _first(neurons: nn.Module) -> tuple[_BatchNorm | None, nn.Module]:
    """A batch normalisation with which neurons begin, if they do, and the rest of them."""
    parts = list(neurons) if isinstance(neurons, nn.Sequential) else [neurons]
    first = parts[0] if parts else None
    if not isinstance(first, Norm) or not isinstance(first.norm, _BatchNorm) or first.norm.running_mean is None:
        return None, neurons
    return first.norm, nn.Sequential(*parts[1:])
