"""ONNX with one Scan over time for each spiking layer, dynamic batch."""

from pathlib import Path

from torch import Tensor

from edgepep.export import trace_onnx
from edgepep.network import Network
from edgepep.neurons import Leaky

# A current that rounding puts on the other side of the threshold moves one spike, and a rate by 1 / steps; the class
# is what must hold.
TOLERANCE = (0.5, 0.001)
"""Largest |difference| of a logit, and share of samples that may be given another class."""


def suits(network: Network) -> bool:
    """Whether the network has spiking neurons."""
    return any(isinstance(module, Leaky) for module in network.modules())


def save(network: Network, example: Tensor, path: Path) -> None:
    """Write the network's forward pass: input `x` [batch, ...], output `logits` [batch, classes]."""
    trace_onnx(network, example, path)
