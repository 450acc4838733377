"""ONNX of a spiking network with quantised weights, spike for spike: int8 codes are summed, then scaled.

As onnx_spiking, with the same inputs; the currents of all layers over time are exact sums of integers, so no library
and no batch size can round a spike away. The data of a constant current are read as 8-bit values from 0 to 1.
"""

from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from edgepep.errors import ExportError
from edgepep.integers import check_inputs, coded, small_initialisers
from edgepep.network import Network
from edgepep.neurons import Spiking
from edgepep.onnx_files import Runner
from edgepep.plugins import module_at
from edgepep.spike_export import compared, given_to, populations, spikes_of, together, with_spikes


class Exact(NamedTuple):
    """How a written file agrees with the network's integer form, and that form with the network that was trained."""

    samples: int
    max_difference: float
    agreement: int
    spikes: int
    flips: int
    trained_agreement: int
    trained_flips: int

    def __str__(self) -> str:
        return (
            f"max |difference| {self.max_difference:.2g}, same class {self.agreement} of {self.samples}, "
            f"{self.flips} of {self.spikes} differ, spike or none; from the network as it was trained, same class "
            f"{self.trained_agreement}, {self.trained_flips} differ"
        )


def suits(network: Network) -> bool:
    """Whether the network has spiking neurons, and quantised weights before each of them."""
    timed = [layer for layer in network.chain if any(isinstance(m, Spiking) for m in layer.neurons.modules())]
    return bool(timed) and all(hasattr(layer.synapses, "quant_weight") for layer in timed)


def save(network: Network, example: Tensor, path: Path) -> None:
    """Write the forward pass of the network's integer form."""
    module_at(Path(__file__).with_name("onnx_spiking.py")).save(coded(network), example, path)
    small_initialisers(path)


def check(network: Network, path: Path, inputs: Tensor, batch: int = 250) -> Exact:
    """Compare every spike.

    Raises:
        ExportError: if one differs.

    """
    twin, was_training = coded(network), network.training
    run = Runner(with_spikes(path, len(populations(twin))))
    parts, trained = [], []
    network.eval()
    for x in inputs.cpu().split(batch):
        check_inputs(network, x)
        logits, *spikes = run({run.inputs[0]: given_to(twin, x).contiguous()})
        parts.append(compared(twin, x, logits, spikes))
        trained.append(compared(network, x, *spikes_of(twin, x)))
    network.train(was_training)
    found, other = together(parts), together(trained)
    if found.flips or found.agreement < found.samples:
        raise ExportError(f"onnx_spiking_codes: the file does not agree with the network, spike for spike: {found}.")
    return Exact(*found, other.agreement, other.flips)
