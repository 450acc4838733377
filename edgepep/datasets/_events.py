"""Recordings of events, read by tonic, as counts in bins of time [time, ...]."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgepep.errors import DataError

_MOST = 127  # counts are kept as int8


def recordings(kind: str, train: bool, folder: Path, archive: str) -> Any:
    """Tonic's data set of that kind, downloaded to the folder if it is missing.

    Args:
        kind: name of tonic's class, and of the folder that it keeps its files in.
        train: the training set, else the test set.
        folder: where that folder is.
        archive: what is downloaded; tonic takes a set to be there if this is, and what was unpacked from it.

    Raises:
        DataError: if tonic is not installed, or files are missing and cannot be downloaded.

    """
    datasets = _tonic(kind).datasets
    try:
        return getattr(datasets, kind)(str(folder), train=train)
    except Exception as error:
        raise DataError(
            f"{kind} is not in {folder} and could not be downloaded ({reason(error)}). Name the folder that has "
            f"{kind}/{archive}, and what was unpacked beside it, with --data-dir or $EDGEPEP_DATA."
        ) from error


def counts(recorded: Any, steps: int, width: int, name: Callable[[int], str]) -> Tensor:
    """Events of all samples as counts [n, steps, ...], int8; what was counted above 127 is kept as 127.

    Bin k counts the events from k * width up to, but not including, (k + 1) * width after the start of the sample:
    the zero of its own clock, not its first event. Events after the last bin are left out. The samples are read one
    by one, so that no more than one is in memory as events.

    Args:
        recorded: tonic's data set; its sensor's sides, but those of 1, are the shape of a frame.
        steps: number of bins.
        width: of a bin, in microseconds.
        name: what to call a sample in an error.

    Raises:
        DataError: if a sample cannot be read, has no events, or one that is out of order or outside the sensor.

    """
    frames = _tonic(type(recorded).__name__).transforms.ToFrame(
        sensor_size=recorded.sensor_size, time_window=width, start_time=0, end_time=steps * width
    )
    shape = [side for side in reversed(recorded.sensor_size) if side > 1]
    counted = torch.zeros(len(recorded), steps, *shape, dtype=torch.int8)
    for i in range(len(recorded)):
        try:
            events, _ = recorded[i]
        except Exception as error:
            raise DataError(f"{name(i)} cannot be read: {reason(error)}.") from error
        _check(events, recorded.sensor_size, name(i))
        counted[i] = torch.from_numpy(frames(events)).clamp_(max=_MOST).view(steps, *shape)
    return counted


def reason(error: Exception) -> str:
    """First line of what an error says."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _check(events: Any, sides: Sequence[int], name: str) -> None:
    """Raise DataError unless the events, a structured array, are in order of time and on the sensor."""
    if not len(events):
        raise DataError(f"{name} has no events.")
    times = events["t"]
    if times[0] < 0:
        raise DataError(f"{name}: event 0 is at {times[0]} µs; time starts at 0.")
    back = (times[1:] < times[:-1]).nonzero()[0]
    if len(back):
        i = int(back[0]) + 1
        raise DataError(
            f"{name}: event {i} is at {times[i]} µs, before event {i - 1} at {times[i - 1]} µs; events must be in "
            "order of time."
        )
    for axis, side in zip("xy", sides, strict=False):
        if axis not in events.dtype.names:
            continue
        outside = ((events[axis] < 0) | (events[axis] >= side)).nonzero()[0]
        if len(outside):
            i = int(outside[0])
            raise DataError(f"{name}: event {i} is at {axis} = {events[axis][i]}; the sensor has 0 to {side - 1}.")


def _tonic(kind: str) -> Any:
    try:
        import tonic
    except ImportError as error:
        raise DataError(
            f"{kind} is read by tonic, which does not import ({reason(error)}): pip install 'edgepep[events]'"
        ) from error
    return tonic
