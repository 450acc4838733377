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
    special = (isinstance(m, (Spiking, Quantiser)) or hasattr(m, "quant_weight") for m in network.modules())
    return not any(special)


def save(network: Network, example: Tensor, path: Path) -> None:
    """Write the network's forward pass: input `x` [batch, ...], output `logits` [batch, classes]."""
    trace_onnx(network, (example,), path)
