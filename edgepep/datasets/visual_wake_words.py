"""Visual Wake Words, COCO images with and without a person: known by its shape only."""

from pathlib import Path

from torch import Tensor

from edgepep.datasets._elsewhere import not_loaded

SHAPE, CLASSES = (3, 96, 96), 2


def load(train: bool, folder: Path) -> tuple[Tensor, Tensor]:
    """Raise DataError: the set is prepared elsewhere."""
    raise not_loaded("visual_wake_words", "mlcommons/tiny, visual_wake_words")
