"""C99 for a device without heap: inference, and the run's training step in place; a folder with a Makefile.

Written are the network, its weights and the step of the run's rule: pepita, mempepita, local_heads, dfa, drtp,
last_layer (frozen_hidden) or backprop, one sample at a time, plain SGD with the run's factors of the rate by layer.
Layers are Linear and Conv2d of any stride, padding, dilation and groups, with weights in floats or integer codes; ReLU
or no neurons; max and mean pooling, normalisation of the sample without learned scale, activation quantisers (not under
backprop); sums; batch normalisation where nothing learns. Dropout rests on a device. The folder is compiled by this
machine's compiler, if there is one, and its answers are compared with torch's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from edgepep import c99
from edgepep.c99.host import Host, compiler
from edgepep.errors import ExportError
from edgepep.network import Network
from edgepep.neurons import Spiking
from edgepep.rule import Rule
from edgepep.synapses import Quantiser

SUFFIX = "-c"
TOLERANCE = 1e-4
"""Largest |difference| of a logit, in largest |logit|s, for weights that are written as they are."""
ROUNDED = 0.02
"""The same where activities are rounded: another order of summing takes some that lie halfway to the other side."""
WORK = 2e9
"""Multiply-accumulates to spend on the comparison."""


class Compared(NamedTuple):
    """How the compiled network agrees with torch's on some samples."""

    samples: int
    max_difference: float
    agreement: int
    rounded: bool
    """The weights were rounded to 8 bits when they were written, so that the answers differ."""

    def __str__(self) -> str:
        if not self.samples:
            return "not compiled: there is no C compiler here (install gcc, or name one in $CC)"
        said = f"max |difference| {self.max_difference:.2g}, same class {self.agreement} of {self.samples}"
        return said + (" (weights rounded to 8 bits)" if self.rounded else "")


def suits(network: Network) -> bool:
    """Whether the network is not spiking; what else has no form in C is said layer by layer."""
    return not any(isinstance(module, Spiking) for module in network.modules())


def save(
    network: Network,
    example: Tensor,
    path: Path,
    rule: Rule | None = None,
    precision: str | None = None,
    rates: Mapping[str, float] | None = None,
) -> None:
    """Write the folder.

    Args:
        network: on the CPU.
        example: real inputs [batch, ...], which the bench of the folder will run.
        path: the folder.
        rule: whose step is written; None: inference only.
        precision: of the weights: "fp32", "int8", which rounds those in floats, or None: as they are.
        rates: factors of the learning rate, by the pattern of layers' names; those of the run.

    """
    if rates is not None and not isinstance(rates, Mapping):
        raise ExportError(
            f"rates is {rates!r}; it must be a table of factors, which a run's export takes from its recipe."
        )
    made = c99.plan(network, example, rule, precision, rates)
    labels = network(example).argmax(1).tolist()
    c99.save(made, path, samples=list(zip(example, labels, strict=True)))


@torch.no_grad()
def check(network: Network, path: Path, inputs: Tensor) -> Compared:
    """Compile the folder here, run it on real inputs and compare.

    Raises:
        ExportError: if the compiler refuses it, or its answers differ beyond TOLERANCE.

    """
    if compiler() is None:
        return Compared(0, 0.0, 0, False)
    about = json.loads((path / "predicted.json").read_text(encoding="utf-8"))
    count = max(10, min(len(inputs), int(WORK / about["inference_macs"])))
    host, x, was_training = Host(path), inputs[:count].cpu(), network.training
    ours = network.eval()(x.to(next(iter(network.state_dict().values())).device)).cpu()
    network.train(was_training)
    theirs = torch.stack([host.infer(sample) for sample in x])
    rounded = about["precision"] == "int8" and not any(hasattr(m, "codes") for m in network.modules())
    found = Compared(
        len(x), float((ours - theirs).abs().max()), int((ours.argmax(1) == theirs.argmax(1)).sum()), rounded
    )
    allowed = ROUNDED if any(isinstance(m, Quantiser) for m in network.modules()) else TOLERANCE
    if not rounded and not found.max_difference <= allowed * float(ours.abs().max()):
        raise ExportError(f"c: the compiled network does not agree with torch: {found}.")
    return found
