"""Photographs of a hundred kinds, 3x32x32 (Krizhevsky 2009), as torchvision stores them."""

from pathlib import Path

from torch import Tensor

from edgepep.datasets._torchvision import load_from

SHAPE = (3, 32, 32)
CLASSES = 100


def load(train: bool, folder: Path) -> tuple[Tensor, Tensor]:
    """Inputs [n, 3, 32, 32] as uint8 and labels [n]."""
    return load_from("CIFAR100", train, folder)
