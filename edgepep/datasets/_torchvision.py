"""Torchvision's data sets as whole tensors: files checked, downloaded when missing, errors that say what to do."""

from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from edgepep.datasets import _files
from edgepep.errors import DataError

# SHA-256 of the unpacked files; torchvision lists MD5 sums, of the archives only where they are IDX files.
_FILES = {
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
    "CIFAR10": {
        "data_batch_1": "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd",
        "data_batch_2": "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8",
        "data_batch_3": "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9",
        "data_batch_4": "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b",
        "data_batch_5": "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154",
        "test_batch": "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831",
    },
    "CIFAR100": {
        "train": "735e79b04f092ca3d2e6d07f368c0a7d70d48c48d28865950cc24454cf45129b",
        "test": "4b67687d9933c4db8f0831104447f15b93774f4f464bd0516f0f0f2ac83b7864",
    },
}
_HOMES = {"CIFAR10": "cifar-10-batches-py", "CIFAR100": "cifar-100-python"}
_PARTS = {"CIFAR10": ("data_", "test"), "CIFAR100": ("train", "test")}
"""How the names of a split's files begin, where not as MNIST's."""


def load_from(kind: str, train: bool, folder: Path) -> tuple[Tensor, Tensor]:
    """Inputs [n, channels, height, width] as uint8 and labels [n] of torchvision's data set of that kind.

    Raises:
        DataError: if files are missing and cannot be downloaded, or do not have the published checksum.

    """
    home = folder / _HOMES[kind] if kind in _HOMES else folder / kind / "raw"
    if not all(_is_there(home / name) for name in _FILES[kind]):
        for name, digest in _FILES[kind].items():
            if _is_there(home / name):  # what is there must be whole
                _files.verified(home / name, digest)
        _download(kind, train, folder)
        if not all(_is_there(home / name) for name in _FILES[kind]):
            raise _missing(kind, folder, "the download is incomplete")
    part = _PARTS.get(kind, ("train", "t10k"))[0 if train else 1]
    found = [_files.verified(home / name, digest) for name, digest in _FILES[kind].items() if name.startswith(part)]
    if kind not in _HOMES:
        return _files.idx(found[0]).unsqueeze(1), _files.idx(found[1]).to(torch.int64)
    batches = [_files.batch(content) for content in found]
    label = "labels" if kind == "CIFAR10" else "fine_labels"
    inputs = torch.cat([torch.from_numpy(made["data"].copy()) for made in batches]).view(-1, 3, 32, 32)
    return inputs, torch.tensor([value for made in batches for value in made[label]], dtype=torch.int64)


def _is_there(path: Path) -> bool:
    return path.is_file() or path.with_name(f"{path.name}.gz").is_file()


def _download(kind: str, train: bool, folder: Path) -> None:
    datasets = _torchvision().datasets
    try:
        getattr(datasets, kind)(str(folder), train=train, download=True)
    except Exception as error:
        raise _missing(kind, folder, error) from error


def _torchvision() -> ModuleType:
    try:
        import torchvision
    except (ImportError, RuntimeError) as error:
        raise DataError(
            f"torchvision does not work with torch {torch.__version__}: {str(error).splitlines()[0]}. They must be "
            "installed as a pair: pip install --force-reinstall torch torchvision. (--dataset digits needs neither.)"
        ) from error
    return torchvision  # type: ignore[no-any-return]


def _missing(kind: str, folder: Path, reason: object) -> DataError:
    return DataError(
        f"{kind} is not in {folder} and could not be downloaded ({str(reason).splitlines()[0]}). "
        "Name the folder that has it with --data-dir or $EDGEPEP_DATA; --dataset digits needs no download."
    )
