"""Data sets, one a file: SHAPE, CLASSES and load(train, folder). A set lives whole on the device, as tensors."""

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from edgepep import noise, plugins
from edgepep.errors import DataError

_HELD_OUT = 20_220  # seed of which samples are held out; never to be changed


@dataclass(frozen=True)
class Data:
    """Inputs [n, *shape], uint8 in 0..255, float in [0, 1] or counts as int8, and class labels [n]."""

    name: str
    inputs: Tensor
    labels: Tensor
    classes: int

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> "Data":
        """Copy to a device."""
        return replace(self, inputs=self.inputs.to(device), labels=self.labels.to(device))

    def take(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Inputs as floats, uint8 scaled to [0, 1] and counts as they are, and labels of some samples."""
        x = self.inputs[index]
        if x.dtype == torch.uint8:
            x = x.float().div_(255)
        elif x.dtype == torch.int8:
            x = x.float()
        return x, self.labels[index]

    def without(self, classes: Iterable[int]) -> "Data":
        """Return the samples of all other classes; labels and their number stay as they are.

        Raises:
            DataError: if a class does not exist, or none is left.

        """
        left_out = sorted(set(classes))
        for label in left_out:
            if not 0 <= label < self.classes:
                raise DataError(f"{self.name} has no class {label} to leave out; there are 0 to {self.classes - 1}.")
        kept = ~torch.isin(self.labels, self.labels.new_tensor(left_out))
        if not kept.any():
            raise DataError(f"without classes {left_out} nothing of {self.name} is left.")
        return replace(self, inputs=self.inputs[kept], labels=self.labels[kept])

    def split(self, held_out: int) -> tuple["Data", "Data"]:
        """Return what is left, and samples that are held out: always the same ones, whatever the seed of a run.

        Equally many are taken of every class, until a class has but one sample left; those of a smaller number are
        among those of a larger. Which ones is a permutation of a fixed seed, the same on every device and machine.

        Raises:
            DataError: if so many cannot be held out.

        """
        if not self.classes <= held_out < len(self):
            raise DataError(
                f"held_out is {held_out}; of {self.name}, {len(self)} samples of {self.classes} classes, it can be "
                f"{self.classes} to {len(self) - 1}, or 0."
            )
        labels = self.labels.cpu()
        order = noise.bits((len(self),), noise.key(_HELD_OUT)).argsort(stable=True)
        turn = torch.empty_like(labels)
        for label in range(self.classes):
            own = order[labels[order] == label]
            turn[own] = torch.arange(len(own))
            turn[own[-1:]] = len(self)
        taken = torch.zeros(len(self), dtype=torch.bool)
        taken[order[turn[order].argsort(stable=True)[:held_out]]] = True
        taken = taken.to(self.labels.device)
        left, held = (replace(self, inputs=self.inputs[part], labels=self.labels[part]) for part in (~taken, taken))
        return left, held

    def shuffled(
        self, batch_size: int, seed: int, epoch: int, start: int = 0
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Batches, and which samples are in them, in the order of `order`."""
        for index in self.order(batch_size, seed, epoch, start):
            yield (*self.take(index), index)

    def order(self, batch_size: int, seed: int, epoch: int, start: int = 0) -> Iterator[Tensor]:
        """Which samples each batch has, in an order that (seed, epoch) determines on every device.

        The last batch may be short; `start` leaves out that many at the beginning.
        """
        order = noise.bits((len(self),), noise.key(seed, epoch, device=self.labels.device)).argsort(stable=True)
        yield from order.split(batch_size)[start:]

    def in_order(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches in the stored order."""
        for start in range(0, len(self), batch_size):
            yield self.take(slice(start, start + batch_size))


class Info(NamedTuple):
    """What is known of a data set without loading it."""

    shape: tuple[int, ...]
    classes: int


def names() -> list[str]:
    """Names of all data sets."""
    return plugins.in_package(sys.modules[__name__])


def info(name: str) -> Info:
    """Shape and number of classes of a data set."""
    module = plugins.module_in(sys.modules[__name__], "data set", name)
    return Info(tuple(module.SHAPE), module.CLASSES)


def load(name: str, train: bool, folder: Path | str | None = None) -> Data:
    """Load one split of a data set, downloading it if it is missing.

    Args:
        name: of the data set.
        train: the training set, else the test set.
        folder: where the files are; else $EDGEPEP_DATA, else a folder in the user's cache.

    Raises:
        UnknownName: if there is no such data set.
        DataError: if the files are missing and cannot be downloaded, or are damaged.

    """
    module = plugins.module_in(sys.modules[__name__], "data set", name)
    inputs, labels = module.load(train, data_folder(folder))
    return checked(Data(name, inputs, labels, module.CLASSES), tuple(module.SHAPE))


def data_folder(folder: Path | str | None = None) -> Path:
    """Where data are looked for: the folder given, else $EDGEPEP_DATA, else a folder in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(folder or os.environ.get("EDGEPEP_DATA") or cache / "edgepep" / "data").expanduser()


def checked(data: Data, shape: tuple[int, ...]) -> Data:
    """Return data if it is usable: as many labels as inputs, the right shape, finite values, labels in range."""
    name, inputs, labels, classes = data.name, data.inputs, data.labels, data.classes
    if len(inputs) != len(labels):
        raise DataError(f"{name} has {len(inputs)} inputs but {len(labels)} labels.")
    if not len(inputs):
        raise DataError(f"{name} is empty.")
    if tuple(inputs.shape[1:]) != shape:
        raise DataError(f"{name} has inputs of shape {list(inputs.shape[1:])}, not {list(shape)}.")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise DataError(f"{name} has class labels from {low} to {high}; {classes} classes allow 0 to {classes - 1}.")
    if inputs.is_floating_point() and not inputs.isfinite().all():
        bad = int((~inputs.isfinite()).flatten(1).any(1).nonzero()[0])
        raise DataError(f"{name} has a value that is not finite, first in sample {bad}.")
    return data
