"""ONNX in 32-bit floats, dynamic batch, for networks of standard layers."""

from pathlib import Path

from torch import Tensor

from edgepep.network import Network
from edgepep.neurons import Spiking
from edgepep.onnx_files import trace_onnx
from edgepep.synapses import Quantiser

TOLERANCE = (1e-3, 0.001)
"""Largest |difference| of a logit, and share of samples that may be given another class."""


def suits(network: Network) -> bool:
    """Whether the network is neither spiking nor quantised."""
    return not any(isinstance(module, (Spiking, Quantiser)) for module in network.modules())


def save(network: Network, example: Tensor, path: Path) -> None:
    """Write the network's forward pass: input `x` [batch, ...], output `logits` [batch, classes]."""
    trace_onnx(network, (example,), path)
