"""ONNX of one step of time of a spiking network, its state an input and an output, for devices that stream.

Inputs: `x` [batch, ...], what the network is given in this step (data as a constant current, a frame, or spikes), and
`state_0`, `state_1`, ... [batch, ...], zeros before the first step. Outputs: `readout` [batch, classes], whose mean
over all steps is the network's answer, `next_0`, `next_1`, ..., and `spikes_0`, ... of each population.
"""

import copy
from pathlib import Path

import torch
from torch import Tensor

from edgepep.export import check as check_classes
from edgepep.network import Network
from edgepep.neurons import Spiking
from edgepep.onnx_files import Runner, free, trace_onnx
from edgepep.spike_export import OneStep, Spikes, compared, together
from edgepep.time_axis import through

TOLERANCE = (0.5, 0.001)
"""Largest |difference| of a logit, and share of samples that may be given another class; see onnx_spiking."""


def suits(network: Network) -> bool:
    """Whether the network has spiking neurons."""
    return any(isinstance(module, Spiking) for module in network.modules())


def save(network: Network, example: Tensor, path: Path) -> None:
    """Write one step."""
    x = through(network.encode, example)[0].contiguous()
    module = OneStep(network)
    states = module.rest(x)
    count, batch = len(states), free("batch")
    outputs = ["readout", *(f"next_{i}" for i in range(count))]
    outputs += [f"spikes_{i}" for i in range(len(module.populations))]
    inputs = ["x", *(f"state_{i}" for i in range(count))]
    trace_onnx(module, (x, *states), path, inputs, outputs, [{0: batch}] * (1 + count))


def check(network: Network, path: Path, inputs: Tensor, batch: int = 250) -> Spikes:
    """Run the file step after step, and compare the mean readout and every spike with the network's.

    Raises:
        ExportError: if logits or classes differ by more than TOLERANCE.

    """
    was_training, network = network.training, network.eval()
    run = Runner(str(path))
    names = [name for name in run.inputs if name != "x"]
    step = OneStep(copy.deepcopy(network).cpu())
    parts = []
    for x in inputs.cpu().split(batch):
        code = through(network.encode, x)
        states = step.rest(code[0])
        readouts, spikes = [], []
        for now in code:
            answer = run({"x": now.contiguous(), **dict(zip(names, states, strict=True))})
            readouts.append(answer[0])
            states, fired = tuple(answer[1 : 1 + len(names)]), answer[1 + len(names) :]
            spikes.append(fired)
        over_time = [torch.stack(each) for each in zip(*spikes, strict=True)]
        parts.append(compared(network, x, torch.stack(readouts).mean(0), over_time))
    network.train(was_training)
    found = together(parts)
    check_classes(found, TOLERANCE, "onnx_spiking_step")
    return found
