"""Spiking Heidelberg Digits, spoken in two languages to a model of the ear (Cramer et al. 2020), as tonic stores them.

Frames over time: 50 bins of 28 ms from the start of a recording, 1.4 s in all.
"""

from pathlib import Path

import torch
from torch import Tensor

from edgepep.datasets._events import counts, reason, recordings
from edgepep.errors import DataError

SHAPE, CLASSES = (50, 700), 20
_WIDTH = 28_000  # of a bin, in microseconds
_MOST = 8156  # samples of the training set; the test set has 2,264
_KEYS = ("labels", "spikes/times", "spikes/units", "extra/keys", "extra/speaker")


def load(train: bool, folder: Path) -> tuple[Tensor, Tensor]:
    """Counts of events [n, 50, 700] as int8 and labels [n]."""
    name = "shd_train.h5" if train else "shd_test.h5"
    path = folder / "SHD" / name
    if path.is_file():
        _labels(path)  # tonic would not say what is wrong with it
    recorded = recordings("SHD", train, folder, f"{name}.zip")
    labels = _labels(path)
    return counts(recorded, SHAPE[0], _WIDTH, lambda i: f"{path}: sample {i}"), labels


def _labels(path: Path) -> Tensor:
    """Labels [n] of a file that has all its parts."""
    try:
        labels, sizes = _read(path)
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"{path} is damaged: {reason(error)}. Delete it and {path.name}.zip, and run again to download it."
        ) from error
    if len(set(sizes.values())) > 1:
        said = ", ".join(f"{size} {key}" for key, size in sizes.items())
        raise DataError(f"{path} is damaged: it has {said}; each sample has one of each.")
    bad = ((labels < 0) | (labels >= CLASSES)).nonzero()
    if len(bad):
        i = int(bad[0])
        raise DataError(f"{path}: sample {i}: the label is {int(labels[i])}; there are 0 to {CLASSES - 1}.")
    return labels


def _read(path: Path) -> tuple[Tensor, dict[str, int]]:
    """Labels [n], and how many samples each list has."""
    import h5py

    with h5py.File(path, "r") as file:
        missing = [key for key in _KEYS if key not in file]
        if missing:
            raise DataError(f"{path} is damaged: it has no {missing[0]}.")
        sizes = {key: len(file[key]) for key in _KEYS[:3]}
        if max(sizes.values()) > _MOST:
            raise DataError(f"{path} is damaged: it has {max(sizes.values())} samples; at most {_MOST} are read.")
        return torch.from_numpy(file["labels"][:].astype("int64")), sizes
