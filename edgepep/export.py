"""Networks written in other forms: targets found in export/, and what they wrote run and compared."""

from __future__ import annotations

import contextlib
import copy
import io
import os
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
import torch.onnx
from torch import Tensor

from edgepep import plugins
from edgepep.errors import ExportError
from edgepep.folders import EXPORT
from edgepep.network import Network

Run = Callable[[Tensor], Tensor]


class Parity(NamedTuple):
    """How a written file agrees with the network on some samples."""

    samples: int
    max_difference: float
    agreement: int

    def __str__(self) -> str:
        return f"max |difference| {self.max_difference:.2g}, same class {self.agreement} of {self.samples}"


def names() -> list[str]:
    """Names of the targets."""
    return plugins.in_folder(EXPORT, ".py")


def describe(name: str) -> str:
    """First line of a target's own description."""
    return (_target(name).__doc__ or "").strip().splitlines()[0]


def choose(name: str, network: Network) -> str:
    """Name of a target; "onnx" stands for the ONNX target that suits the network.

    Raises:
        UnknownName: if there is no such target.
        ExportError: if no target suits.

    """
    if name != "onnx":
        return plugins.check("target", name, ["onnx", *names()])
    suiting = [target for target in names() if target.startswith("onnx_") and _target(target).suits(network)]
    if not suiting:
        raise ExportError("no ONNX target suits this network.")
    return suiting[0]


def save(network: Network, path: Path | str, target: str, inputs: Tensor) -> Parity:
    """Write a network, run the file on real inputs, and keep how it agrees in the file itself.

    Args:
        network: trained; it is not changed.
        path: file to write.
        target: a target's name, or "onnx".
        inputs: [n, ...], real ones: the more, the surer the comparison.

    Raises:
        ExportError: if the network cannot be written, or the file disagrees with it beyond the target's tolerance.

    """
    path = Path(path)
    name = choose(target, network)
    module = _target(name)
    if not module.suits(network):
        raise ExportError(f"the target {name} does not suit this network: {describe(name)}")
    written = path.with_name(path.name + ".new")
    try:
        with torch.no_grad():
            module.save(copy.deepcopy(network).cpu().eval(), inputs[:2].cpu(), written)
        parity = compare(network, written, inputs)
        check(parity, module.TOLERANCE, name)
        _keep(written, name, parity)
        written.replace(path)
    except OSError as error:
        raise ExportError(f"cannot write {path}: {error.strerror or error}.") from error
    finally:
        written.unlink(missing_ok=True)
    return parity


def trace_onnx(network: Network, example: Tensor, path: Path) -> None:
    """Write what torch.export sees of the forward pass: input `x`, output `logits`, the batch left free.

    Raises:
        ExportError: if torch cannot export it.

    """
    batch = torch.export.Dim("batch", min=1, max=2**20)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # torch's exporter warns of its own internals
            torch.onnx.export(
                network,
                (example,),
                str(path),
                dynamo=True,
                external_data=False,
                input_names=["x"],
                output_names=["logits"],
                dynamic_shapes=({0: batch},),
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ExportError(f"torch cannot export the network: {str(error).strip().splitlines()[0]}") from error


@torch.no_grad()
def compare(network: Network, path: Path, inputs: Tensor, batch: int = 250) -> Parity:
    """Run an ONNX file and the network on the same inputs, and count where they differ."""
    run = session(path)
    was_training = network.training
    network.eval()
    device = next(network.parameters()).device
    difference, same = 0.0, 0
    for x in inputs.split(batch):
        ours, theirs = network(x.to(device)).cpu(), run(x.cpu())
        if theirs.shape != ours.shape:
            raise ExportError(f"{path} answers {list(theirs.shape)} where the network answers {list(ours.shape)}.")
        difference = max(difference, float((ours - theirs).abs().max()))
        same += int((ours.argmax(1) == theirs.argmax(1)).sum())
    network.train(was_training)
    return Parity(len(inputs), difference, same)


def check(parity: Parity, tolerance: tuple[float, float], target: str) -> None:
    """Raise ExportError unless the difference and the share of other classes are within a target's tolerance."""
    largest, others = tolerance
    if not parity.max_difference <= largest or parity.samples - parity.agreement > others * parity.samples:
        raise ExportError(
            f"{target}: the file does not agree with the network: {parity}; allowed: max |difference| {largest:.2g}, "
            f"another class in {others:.1%} of the samples."
        )


def session(path: Path | str) -> Run:
    """Function that runs an ONNX file in onnxruntime, on the CPU, its arithmetic left as written.

    Raises:
        ExportError: if the file cannot be read or run.

    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Left on, these fuse int8 products into kernels that saturate on CPUs without VNNI, or round activations again.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        made = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a dozen types of its own, without a common base
        raise ExportError(f"onnxruntime cannot run {path}: {str(error).splitlines()[0]}") from error
    name = made.get_inputs()[0].name
    return lambda x: torch.from_numpy(made.run(None, {name: x.numpy()})[0])


def _keep(path: Path, target: str, parity: Parity) -> None:
    """Store the target and the parity in the file's metadata."""
    import onnx

    model = onnx.load(path)
    kept = {"target": target, **{key: str(value) for key, value in parity._asdict().items()}}
    for key, value in kept.items():
        model.metadata_props.add(key=f"edgepep.{key}", value=value)
    onnx.save(model, path)


@cache
def _target(name: str) -> ModuleType:
    return plugins.module_at(EXPORT / f"{plugins.check('target', name, names())}.py")
