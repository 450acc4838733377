"""Kits that learn where they run: folders of export/ with a pack.py, packed with a run's training step.

A pack.py has INPUT, the shape of the inputs that the kit can make, CLASSES, and pack(folder, train, test), which adds
the kit's own files to a folder; both samples are (inputs [n, ...] as uint8, labels [n]).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from edgepep import plugins
from edgepep.datasets import Data, Info
from edgepep.errors import ExportError
from edgepep.folders import EXPORT

MODEL = "model"
"""Folder of a packed kit that holds the training step."""


def names() -> list[str]:
    """Names of the kits."""
    return sorted(path.parent.name for path in EXPORT.glob("*/pack.py"))


def choose(name: str, recipe: str, info: Info) -> ModuleType:
    """Return the kit of a name, if a recipe's data suit it.

    Args:
        name: of the kit.
        recipe: the recipe's name, for the message.
        info: shape and classes of its data.

    Raises:
        UnknownName: if there is no such kit.
        ExportError: if the kit makes other inputs.

    """
    kit = plugins.module_at(EXPORT / plugins.check("kit", name, names()) / "pack.py")
    if info.shape != kit.INPUT or info.classes != kit.CLASSES:
        wants = f"inputs of {list(kit.INPUT)} and {kit.CLASSES} classes"
        raise ExportError(f"the kit {name} takes {wants}; {recipe} has {list(info.shape)} and {info.classes}.")
    return kit


def pack(kit: ModuleType, folder: Path, about: Mapping[str, object], train: Data, test: Data) -> None:
    """Add a kit's files and samples to the folder that has its training step.

    Args:
        kit: from `choose`.
        folder: of the packed kit.
        about: what the kit may want to know of the run, for model/about.json.
        train: samples of what the network was trained on.
        test: samples that it never learns from.

    Raises:
        ExportError: if they cannot be written.

    """
    samples = [(data.inputs.cpu().numpy(), data.labels.cpu().numpy()) for data in (train, test)]
    try:
        (folder / MODEL / "about.json").write_text(json.dumps(dict(about), indent=2), encoding="utf-8")
        kit.pack(folder, *samples)
    except OSError as error:
        raise ExportError(f"cannot write {folder}: {error.strerror or error}.") from error
