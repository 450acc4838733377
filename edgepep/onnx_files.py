"""ONNX files: traced by torch, run in onnxruntime, with what is known of them in their metadata."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.onnx
from torch import Tensor, nn

from edgepep import plugins
from edgepep.errors import ExportError
from edgepep.folders import EXPORT

Run = Callable[[Tensor], Tensor]


def free(name: str) -> torch.export.Dim:
    """A size that a graph leaves free."""
    return torch.export.Dim(name, min=1, max=2**20)


def trace_onnx(
    module: nn.Module,
    examples: tuple[Tensor, ...],
    path: Path,
    inputs: Sequence[str] = ("x",),
    outputs: Sequence[str] = ("logits",),
    sizes: Sequence[dict[int, torch.export.Dim]] | None = None,
    opset: int | None = None,
) -> None:
    """Write what torch.export sees of a module's forward.

    Args:
        module: in evaluation mode.
        examples: its inputs; no size of theirs that is to be free may be 1.
        path: file to write.
        inputs: their names.
        outputs: names of its answers.
        sizes: of each input, the axes that are left free; else the first.
        opset: else torch's own choice.

    Raises:
        ExportError: if torch cannot export it.

    """
    batch = free("batch")
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _quiet():
            warnings.simplefilter("ignore")  # torch's exporter warns of its own internals
            torch.onnx.export(
                module,
                examples,
                str(path),
                dynamo=True,
                external_data=False,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=_shapes(module, sizes or [{0: batch} for _ in examples]),
                verbose=False,
                opset_version=opset,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        said = str(error.__cause__ or error).strip().splitlines()[0]
        raise ExportError(f"torch cannot export the network: {said}") from error


def _shapes(module: nn.Module, sizes: Sequence[dict[int, torch.export.Dim]]) -> tuple[Any, ...]:
    """Free axes in the form of the forward's signature, where *arguments are one tuple."""
    parameters = inspect.signature(module.forward).parameters.values()
    named = [p for p in parameters if p.kind is not p.VAR_POSITIONAL]
    if len(named) == len(parameters):
        return tuple(sizes)
    return (*sizes[: len(named)], tuple(sizes[len(named) :]))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep from the log what torch's compiler says of guards that an export does not have."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


def session(path: Path | str) -> Run:
    """Function that runs an ONNX file of one input and one output in onnxruntime, its arithmetic left as written.

    Raises:
        ExportError: if the file cannot be read or run.

    """
    run = Runner(str(path))
    name = run.inputs[0]
    return lambda x: run({name: x})[0]


class Runner:
    """An ONNX file in onnxruntime, on the CPU; called with inputs by name.

    Args:
        model: a file's path, or its bytes.
        preset: "parity", its arithmetic left as written, or "fast"; they are those of export/onnxruntime/sessions.py.
        threads: that it computes with; 0 lets onnxruntime choose.

    Raises:
        ExportError: if the file cannot be read or run.

    """

    def __init__(self, model: str | bytes, preset: str = "parity", threads: int = 0) -> None:
        try:
            self.made = _kit().session(model, preset, threads)
        except (ValueError, OSError) as error:
            raise ExportError(f"{model}: {error}" if isinstance(model, str) else str(error)) from error
        self.inputs = [value.name for value in self.made.get_inputs()]
        self.outputs = [value.name for value in self.made.get_outputs()]

    def __call__(self, given: dict[str, Tensor]) -> list[Tensor]:
        """Outputs, in order."""
        try:
            answers = self.made.run(None, {name: value.numpy() for name, value in given.items()})
        except Exception as error:  # onnxruntime raises a dozen types of its own, without a common base
            raise ExportError(f"onnxruntime cannot run the model: {(str(error).splitlines() or ['?'])[0]}") from error
        return [torch.from_numpy(answer) for answer in answers]


def loaded(path: Path | str) -> Any:
    """An ONNX model; tensors that it keeps in other files stay there, and none of them is opened.

    Raises:
        ExportError: if it cannot be read, or is no such model.

    """
    import onnx

    try:
        return onnx.load(path, load_external_data=False)
    except OSError as error:
        raise ExportError(f"cannot read {path}: {error.strerror}.") from error
    except Exception as error:  # protobuf's own, and onnx's
        said = (str(error).splitlines() or ["?"])[0]
        raise ExportError(f"{path} is not an ONNX file that can be read: {said}.") from error


def keep(path: Path, target: str, parity: Any) -> None:
    """Store the target and the parity in the file's metadata."""
    import onnx

    model = onnx.load(path)
    for key, value in {"target": target, **_flat(parity)}.items():
        model.metadata_props.add(key=f"edgepep.{key}", value=str(value))
    onnx.save(model, path)


def _flat(fields: Any) -> dict[str, Any]:
    """Fields of a named tuple, those of tuples in it as "outer.inner"."""
    flat: dict[str, Any] = {}
    for name, value in fields._asdict().items():
        flat.update({f"{name}.{k}": v for k, v in _flat(value).items()} if hasattr(value, "_asdict") else {name: value})
    return flat


@cache
def _kit() -> ModuleType:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return plugins.module_at(EXPORT / "onnxruntime" / "sessions.py")
