"""Speech Commands v2 as 49 frames of 10 MFCC: known by its shape only."""

from pathlib import Path

from torch import Tensor

from edgepep.datasets._elsewhere import not_loaded

SHAPE, CLASSES = (1, 49, 10), 12


def load(train: bool, folder: Path) -> tuple[Tensor, Tensor]:
    """Raise DataError: the set is prepared elsewhere."""
    raise not_loaded("speech_commands", "mlcommons/tiny, keyword_spotting")
