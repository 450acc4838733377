"""ToyADMOS toy cars, five frames of 128 mel energies: known by its shape only."""

from pathlib import Path

from torch import Tensor

from edgepep.datasets._elsewhere import not_loaded

SHAPE, CLASSES = (640,), 640


def load(train: bool, folder: Path) -> tuple[Tensor, Tensor]:
    """Raise DataError: the set is prepared elsewhere."""
    raise not_loaded("toyadmos", "mlcommons/tiny, anomaly_detection")
