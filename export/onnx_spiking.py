"""ONNX with one Scan over time for each spiking population, dynamic batch and number of steps.

A network that is given a constant current has the inputs `x` [batch, ...] and `steps` [1], which may be left out: it
is then the number that the network was trained with. One that is given frames has the input `x` [batch, steps, ...].
Spikes of Poisson and latency codes are drawn by whoever runs the file: their input is `spikes` [steps, batch, ...].
"""

from pathlib import Path

import torch
from torch import Tensor

from edgepep.export import check as check_classes
from edgepep.network import Network
from edgepep.neurons import Frames, Repeat, Spiking
from edgepep.onnx_files import Runner, free, trace_onnx
from edgepep.spike_export import OverTime, Spikes, compared, default_clock, given_to, populations, together, with_spikes

# A current that rounding puts on the other side of the threshold moves one spike, and a rate by 1 / steps; the class
# is what must hold.
TOLERANCE = (0.5, 0.001)
"""Largest |difference| of a logit, and share of samples that may be given another class."""


def suits(network: Network) -> bool:
    """Whether the network has spiking neurons, and its weights in floats; for others see onnx_spiking_codes."""
    spiking = any(isinstance(module, Spiking) for module in network.modules())
    return spiking and not any(hasattr(layer.synapses, "quant_weight") for layer in network.chain)


def save(network: Network, example: Tensor, path: Path) -> None:
    """Write the network's forward pass, with the output `logits` [batch, classes]."""
    batch, steps = free("batch"), torch.export.Dim("steps", min=2, max=2**20)
    code = network.encode
    module = OverTime(network)
    if type(code) is Repeat:
        clock = torch.zeros(max(2, code.steps))
        trace_onnx(module, (example, clock), path, ("x", "clock"), sizes=[{0: batch}, {0: steps}])
        default_clock(path, code.steps)
    elif type(code) is Frames:
        trace_onnx(module, (example,), path, sizes=[{0: batch, 1: steps}])
    else:
        trace_onnx(module, (code(example),), path, ("spikes",), sizes=[{0: steps, 1: batch}])


def check(network: Network, path: Path, inputs: Tensor, batch: int = 250) -> Spikes:
    """Run the file with its populations' spikes as further outputs, and compare all with the network's."""
    return compare(network, path, inputs, batch, "onnx_spiking")


def compare(network: Network, path: Path, inputs: Tensor, batch: int, name: str) -> Spikes:
    """Compare spike for spike; classes must agree.

    Raises:
        ExportError: if logits or classes differ by more than TOLERANCE.

    """
    was_training, network = network.training, network.eval()
    run = Runner(with_spikes(path, len(populations(network))))
    parts = []
    for x in inputs.cpu().split(batch):
        logits, *spikes = run({run.inputs[0]: given_to(network, x).contiguous()})
        parts.append(compared(network, x, logits, spikes))
    network.train(was_training)
    found = together(parts)
    check_classes(found, TOLERANCE, name)
    return found
