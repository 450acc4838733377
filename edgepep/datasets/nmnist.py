"""N-MNIST, MNIST's digits seen by a moving event camera (Orchard et al. 2015), as tonic stores them.

Frames over time: 25 bins of 12.6 ms from the start of a recording, the camera's three saccades of 105 ms; a channel
holds the events of one polarity. The training set takes 3.5 GB of memory.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from edgepep.datasets._events import counts, recordings
from edgepep.errors import DataError

SHAPE, CLASSES = (25, 2, 34, 34), 10
_WIDTH = 12_600  # of a bin, in microseconds
_SAMPLES = {"Train": 60_000, "Test": 10_000}
_EVENT = 5  # bytes
_LONGEST = 1 << 20  # events of a sample; they have about 4,000


def load(train: bool, folder: Path) -> tuple[Tensor, Tensor]:
    """Counts of events [n, 25, 2, 34, 34] as int8 and labels [n]."""
    part = "Train" if train else "Test"
    home = folder / "NMNIST" / part
    _refuse_other_labels(home)
    recorded = recordings("NMNIST", train, folder, f"{part.lower()}.zip")
    _refuse_truncated(recorded.data, home, _SAMPLES[part])
    inputs = counts(recorded, SHAPE[0], _WIDTH, lambda i: str(recorded.data[i]))
    return inputs, torch.tensor(recorded.targets, dtype=torch.int64)


def _refuse_other_labels(home: Path) -> None:
    """Raise DataError unless every sample that is there lies in a folder named by its label."""
    for path in home.rglob("*.bin"):
        label = path.parent.name
        if label not in map(str, range(CLASSES)):
            raise DataError(f"{path}: the label, its folder's name, is {label!r}; there are 0 to {CLASSES - 1}.")


def _refuse_truncated(files: Sequence[str], home: Path, samples: int) -> None:
    """Raise DataError unless all samples are there, each of whole events."""
    if len(files) != samples:
        raise DataError(
            f"{home} has {len(files)} samples, not {samples}. Delete {home.parent} and run again to download it."
        )
    for file in files:
        size = Path(file).stat().st_size
        if size % _EVENT:
            raise DataError(f"{file} is truncated: its {size} bytes are not whole events of {_EVENT} bytes.")
        if size > _EVENT * _LONGEST:
            raise DataError(f"{file} is damaged: it has {size // _EVENT} events; at most {_LONGEST} are read.")
