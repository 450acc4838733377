"""Networks written in other forms: targets found in export/, and what they wrote run and compared."""

from __future__ import annotations

import copy
import inspect
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from edgepep import plugins
from edgepep.errors import ExportError, UnknownName
from edgepep.folders import EXPORT
from edgepep.network import Network
from edgepep.onnx_files import keep, session

__all__ = [
    "Parity",
    "check",
    "choose",
    "compare",
    "describe",
    "names",
    "options",
    "read_options",
    "save",
    "session",
    "size",
    "suffix",
]


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


def suffix(name: str) -> str:
    """How the names of a target's files end."""
    return str(getattr(_target(name), "SUFFIX", ".onnx"))


def options(name: str) -> list[str]:
    """Names of the options that a target's `save` takes."""
    return list(inspect.signature(_target(name).save).parameters)[3:]


def read_options(name: str, words: Sequence[str]) -> dict[str, Any]:
    """Options of a target as they are typed, NAME=VALUE; a value of digits is a number.

    Raises:
        ExportError: for a word that is not of that form.
        UnknownName: for an option that the target does not have.

    """
    given: dict[str, Any] = {}
    for word in words:
        option, equals, value = word.partition("=")
        if not (option and equals and value):
            raise ExportError(f"--option {word!r} is not NAME=VALUE, such as opset=20.")
        _check_option(name, option)
        given[option] = int(value) if value.isdecimal() else value
    return given


def _check_option(target: str, option: str) -> None:
    """Raise UnknownName unless a target has an option, with the targets that have one of that name."""
    known = options(target)
    others = [name for name in names() if option in options(name)]
    elsewhere = f" An option of that name is of: {', '.join(others)}." if others else ""
    if not known:
        raise UnknownName(f"the target {target} has no options, so none called {option!r}.{elsewhere}")
    try:
        plugins.check(f"option of {target}", option, known)
    except UnknownName as error:
        raise UnknownName(f"{error}{elsewhere}") from None


def size(path: Path) -> int:
    """Bytes of a file, or of a folder's files."""
    return sum(file.stat().st_size for file in path.rglob("*")) if path.is_dir() else path.stat().st_size


def save(network: Network, path: Path | str, target: str, inputs: Tensor, **given: Any) -> Any:
    """Write a network, run the file on real inputs, and keep how it agrees in the file itself.

    Args:
        network: trained; it is not changed.
        path: file to write, or the folder, of a target that writes one.
        target: a target's name, or "onnx".
        inputs: [n, ...], real ones: the more, the surer the comparison.
        **given: options of the target, such as opset=20 of onnx_qcdq.

    Returns:
        A Parity, or what the target compares by.

    Raises:
        ExportError: if the network cannot be written, or the file disagrees with it beyond the target's tolerance.

    """
    if not isinstance(network, Network):
        raise ExportError(
            f"{type(network).__name__} is not an edgepep.Network: make one with edgepep.convert(module, example). "
            "Traced as it is, a module that keeps state between calls (init_hidden=True) would lose it without a word."
        )
    path = Path(path)
    name = choose(target, network)
    module = _target(name)
    if not module.suits(network):
        raise ExportError(f"the target {name} does not suit this network: {describe(name)}")
    for option in given:
        _check_option(name, option)
    written = path.with_name(path.name + ".new")
    try:
        with torch.no_grad():
            module.save(copy.deepcopy(network).cpu().eval(), inputs[:2].cpu(), written, **given)
        if hasattr(module, "check"):  # a target that compares what it wrote by itself
            parity: Any = module.check(network, written, inputs)
        else:
            parity = compare(network, written, inputs)
            check(parity, module.TOLERANCE, name)
        if suffix(name) == ".onnx":
            keep(written, name, parity)
        if written.is_dir():
            _make_way(path)
        written.replace(path)
    except OSError as error:
        raise ExportError(f"cannot write {path}: {error.strerror or error}.") from error
    finally:
        _remove(written)
    return parity


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


def _make_way(folder: Path) -> None:
    """Remove an earlier export, and nothing else."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "predicted.json").is_file():
        raise ExportError(f"{folder} exists, and is no export of edgepep; name another folder, or remove it.")
    _remove(folder)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@cache
def _target(name: str) -> ModuleType:
    return plugins.module_at(EXPORT / f"{plugins.check('target', name, names())}.py")
