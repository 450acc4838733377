"""Handwritten digits, 28x28 (LeCun, Cortes & Burges 1998), as torchvision stores them."""

from pathlib import Path

from torch import Tensor

from edgepep.datasets._torchvision import load_from

SHAPE = (1, 28, 28)
CLASSES = 10


def load(train: bool, folder: Path) -> tuple[Tensor, Tensor]:
    """Inputs [n, 1, 28, 28] as uint8 and labels [n]."""
    return load_from("MNIST", train, folder)
