"""Torchvision's data sets as whole tensors: files checked, downloaded when missing, errors that say what to do."""

import gzip
import hashlib
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from edgepep.errors import DataError

# SHA-256 of the unpacked IDX files; torchvision lists checksums of the archives only.
_IDX = {
    "MNIST": {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    "FashionMNIST": {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
}


def load_from(kind: str, train: bool, folder: Path) -> tuple[Tensor, Tensor]:
    """Inputs [n, channels, height, width] as uint8 and labels [n] of torchvision's data set of that kind.

    Raises:
        DataError: if files are missing and cannot be downloaded, or do not have the published checksum.

    """
    datasets = _torchvision().datasets
    found = _present(kind, getattr(datasets, kind), folder)
    try:
        data = getattr(datasets, kind)(str(folder), train=train, download=not found)
    except Exception as error:
        raise _missing(kind, folder, error) from error
    if not found and not _present(kind, getattr(datasets, kind), folder):
        raise _missing(kind, folder, "the download is incomplete")
    inputs = torch.as_tensor(data.data)
    inputs = inputs.unsqueeze(1) if inputs.dim() == 3 else inputs.permute(0, 3, 1, 2).contiguous()
    return inputs, torch.as_tensor(data.targets, dtype=torch.int64)


def _torchvision() -> ModuleType:
    try:
        import torchvision
    except (ImportError, RuntimeError) as error:
        raise DataError(
            f"torchvision does not work with torch {torch.__version__}: {str(error).splitlines()[0]}. They must be "
            "installed as a pair: pip install --force-reinstall torch torchvision. (--dataset digits needs neither.)"
        ) from error
    return torchvision  # type: ignore[no-any-return]


def _present(kind: str, dataset: Any, folder: Path) -> bool:
    """Whether every file is there; one that is there must be whole."""
    if kind in _IDX:
        home, algorithm, wanted = folder / kind / "raw", "sha256", _IDX[kind]
        for name in wanted:
            _unpack(home / name)
    else:
        meta = (dataset.meta["filename"], dataset.meta["md5"])
        home, algorithm = folder / dataset.base_folder, "md5"
        wanted = dict([*dataset.train_list, *dataset.test_list, meta])
    if not all((home / name).is_file() for name in wanted):
        return False
    for name, checksum in wanted.items():
        actual = _checksum(home / name, algorithm)
        if actual != checksum:
            raise DataError(
                f"{home / name} is damaged: its {algorithm} is {actual}, not {checksum}. "
                "Delete it and run again to download it."
            )
    return True


def _unpack(path: Path) -> None:
    """Unpack path.gz where only that is there; what comes out is checked like the rest."""
    archive = path.with_name(path.name + ".gz")
    if path.is_file() or not archive.is_file():
        return
    try:
        with gzip.open(archive) as packed, path.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
    except (OSError, EOFError) as error:
        path.unlink(missing_ok=True)
        raise DataError(f"cannot unpack {archive}: {error}. Delete it and run again to download it.") from error


def _checksum(path: Path, algorithm: str) -> str:
    digest = hashlib.new(algorithm, usedforsecurity=False)
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}.") from error
    return digest.hexdigest()


def _missing(kind: str, folder: Path, reason: object) -> DataError:
    return DataError(
        f"{kind} is not in {folder} and could not be downloaded ({str(reason).splitlines()[0]}). "
        "Name the folder that has it with --data-dir or $EDGEPEP_DATA; --dataset digits needs no download."
    )
