"""ONNX with int8 weights between QuantizeLinear and DequantizeLinear, dynamic batch, for Brevitas layers."""

import contextlib
import io
import warnings
from pathlib import Path

from torch import Tensor

from edgepep.errors import ExportError
from edgepep.network import Network
from edgepep.neurons import Spiking
from edgepep.synapses import Quantiser

TOLERANCE = (0.05, 0.001)
"""Largest |difference| of a logit, and share of samples that may be given another class: a step of an activation's
grid is lost or won where two roundings meet a tie differently."""

OPSET = 20


def suits(network: Network) -> bool:
    """Whether the network has quantised activations, and no spikes."""
    modules = list(network.modules())
    return any(isinstance(m, Quantiser) for m in modules) and not any(isinstance(m, Spiking) for m in modules)


def save(network: Network, example: Tensor, path: Path) -> None:
    """Write the network's forward pass: input `x` [batch, ...], output `logits` [batch, classes].

    Brevitas' exporter folds the weights into int8 initialisers on torch's older export path only.
    """
    from brevitas.export import export_onnx_qcdq

    names = {"input_names": ["x"], "output_names": ["logits"]}
    free = {"x": {0: "batch"}, "logits": {0: "batch"}}
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            export_onnx_qcdq(
                network,
                args=example,
                export_path=str(path),
                dynamo=False,
                opset_version=OPSET,
                dynamic_axes=free,
                **names,
            )
    except (RuntimeError, TypeError, ValueError) as error:
        raise ExportError(f"Brevitas cannot export the network: {str(error).strip().splitlines()[0]}") from error
