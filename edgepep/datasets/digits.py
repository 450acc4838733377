"""Handwritten digits, 8x8, 1,797 of them (Alpaydin & Kaynak 1998): bundled with scikit-learn, no download."""

from pathlib import Path

import torch
from torch import Tensor

SHAPE = (1, 8, 8)
CLASSES = 10
_TRAIN = 1437  # the rest, 360, is the test set


def load(train: bool, folder: Path) -> tuple[Tensor, Tensor]:
    """Inputs [n, 1, 8, 8] in [0, 1] and labels [n]; the folder is not needed."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    chosen = order[:_TRAIN] if train else order[_TRAIN:]
    inputs = torch.from_numpy(digits.images).float().div_(16).unsqueeze(1)
    return inputs[chosen], torch.from_numpy(digits.target).long()[chosen]
