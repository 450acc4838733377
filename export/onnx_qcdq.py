"""ONNX with weights and activations as integers between QuantizeLinear and DequantizeLinear, dynamic batch.

Weights are int8, or int4 where their codes fit and the opset, 21 or more, knows it. Scales are of the whole tensor, or
of each output. The file is run in both of onnxruntime's presets (export/onnxruntime/sessions.py).
"""

import copy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from edgepep.errors import ExportError
from edgepep.network import Network
from edgepep.neurons import Spiking
from edgepep.onnx_files import Runner, trace_onnx
from edgepep.qcdq import finish, stored
from edgepep.synapses import Quantiser

OPSET = 21
OPSETS = range(17, 22)

TIE = 1e-4
"""Two classes tie if the network's own logits for them differ by less than this share of the sample's largest
|logit|: which is first then hangs on the order in which a library adds. Either is right. A sum of n terms in 32 bits
may be off by n / 2**24 of its largest: 1e-4 is that of 1700 terms."""

HALF = 5e-7
"""So it is, if a value that is rounded to a grid lies halfway between two codes, to within this share of the largest
code: scales that come from the data make such values common where bits are few, and a code more or less is a large
step there. torch itself then gives another class in another batch size."""

MOST = 0.05
"""Largest share of samples on which rounding may decide: beyond it, a comparison of classes says nothing. Networks of 2
and 3 bits with few inputs reach it, for their sums are few; with scales that are powers of two every sum is exact, so
nothing is left to rounding, and the file gives the network's logits to the last bit."""

TOLERANCE = 0.1
"""Largest |difference| of a logit, as a share of the largest |logit|."""

FAST = 0.995
"""Share of samples, those on which rounding decides among them, that must be given the network's class in the preset
`fast`; in `parity`, all."""


class Agreement(NamedTuple):
    """How a file agrees with the network in one preset."""

    max_difference: float
    agreement: int
    """Samples of the same class."""
    ties: int
    """Samples of another class whose logit ties with the network's: see TIE."""
    halves: int
    """Samples of another class for which the network rounds a value that lies halfway between two codes: see HALF."""

    @property
    def right(self) -> int:
        """Samples of the same class, and those on which rounding decides in the network itself."""
        return self.agreement + self.ties + self.halves

    def __str__(self) -> str:
        ties = f", {self.ties} of tied classes" if self.ties else ""
        halves = f", {self.halves} where a value lies halfway between codes" if self.halves else ""
        return f"same class {self.agreement}{ties}{halves}, max |difference| {self.max_difference:.2g}"


class Presets(NamedTuple):
    """How a file agrees with the network on some samples, by onnxruntime's preset."""

    samples: int
    parity: Agreement
    fast: Agreement

    @property
    def agreement(self) -> int:
        """Samples of the same class with the preset `parity`."""
        return self.parity.agreement

    @property
    def max_difference(self) -> float:
        """Of a logit, with the preset `parity`."""
        return self.parity.max_difference

    def __str__(self) -> str:
        return f"of {self.samples}, preset parity: {self.parity}; fast: {self.fast}"


def suits(network: Network) -> bool:
    """Whether the network has quantised weights or activations, and no spikes."""
    modules = list(network.modules())
    quantised = any(isinstance(m, Quantiser) or hasattr(m, "quant_weight") for m in modules)
    return quantised and not any(isinstance(m, Spiking) for m in modules)


def save(network: Network, example: Tensor, path: Path, opset: int = OPSET) -> None:
    """Write the network's forward pass: input `x` [batch, ...], output `logits` [batch, classes].

    Raises:
        ExportError: if the network has no such form, or the opset is not one of OPSETS.

    """
    if opset not in OPSETS:
        raise ExportError(f"opset is {opset}; it must be from {OPSETS[0]} to {OPSETS[-1]}.")
    trace_onnx(stored(network), (example,), path, opset=max(opset, 18))  # torch's oldest
    finish(path, opset)


@torch.no_grad()
def check(network: Network, path: Path, inputs: Tensor, batch: int = 250) -> Presets:
    """Run the file in both presets.

    Raises:
        ExportError: if it does not agree with the network: TIE, HALF, MOST, TOLERANCE and FAST say how far it must.

    """
    network = copy.deepcopy(network).cpu().eval()
    x = inputs.cpu()
    ours = torch.cat([network(part) for part in x.split(batch)])
    found = Presets(len(x), *(_compared(network, ours, path, x, batch, preset) for preset in ("parity", "fast")))
    for preset, least in (("parity", 1.0), ("fast", FAST)):
        got: Agreement = getattr(found, preset)
        if got.right < least * len(x) or got.right - got.agreement > MOST * len(x):
            raise ExportError(f"onnx_qcdq: the file does not agree with the network: {found}; {preset}: {least:.1%}.")
    largest = ours.abs().max()
    if not found.max_difference <= TOLERANCE * largest:
        allowed = f"{TOLERANCE:.0%} of the largest |logit|, {largest:.2g}"
        raise ExportError(f"onnx_qcdq: the file does not agree with the network: {found}; allowed: {allowed}.")
    return found


def _compared(network: Network, ours: Tensor, path: Path, x: Tensor, batch: int, preset: str) -> Agreement:
    run = Runner(str(path), preset)
    theirs = torch.cat([run({run.inputs[0]: part})[0] for part in x.split(batch)])
    if theirs.shape != ours.shape:
        raise ExportError(f"{path} answers {list(theirs.shape)} where the network answers {list(ours.shape)}.")
    own, other = ours.argmax(1), theirs.argmax(1)
    short = ours.amax(1) - ours.gather(1, other[:, None])[:, 0]
    tied, others = short <= TIE * ours.abs().amax(1), own != other
    rest = (others & ~tied).nonzero()[:, 0].tolist()
    halves = sum(_halfway(network, x[i : i + 1]) for i in rest)
    return Agreement(float((ours - theirs).abs().max()), int((~others).sum()), int((others & tied).sum()), halves)


def _halfway(network: Network, x: Tensor) -> bool:
    """Whether some value of a pass lies halfway between two codes."""
    found = []

    def look(module: Quantiser, given: tuple[Tensor]) -> None:
        grid: Any = module.quantise.act_quant
        codes, largest = given[0] / grid.scale(), 2.0 ** float(grid.bit_width())
        off = (codes - codes.floor() - 0.5).abs()
        found.append(bool(((off <= HALF * largest) & (codes.abs() <= largest)).any()))

    hooks = [m.register_forward_pre_hook(look) for m in network.modules() if isinstance(m, Quantiser)]
    network(x)
    for hook in hooks:
        hook.remove()
    return any(found)
