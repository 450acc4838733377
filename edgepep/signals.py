"""Signals that ask a process to stop: the first is noted, so that what is under way can be kept; the second ends it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ASKING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""Ctrl-C; what a scheduler sends before it takes a machine away; what SLURM is often told to send before that."""


class Stop:
    """Which signal has come, 0 if none has; called, it says so."""

    def __init__(self) -> None:
        self.signal = 0

    def __call__(self) -> int:
        """Number of the signal, or 0."""
        return self.signal


@contextmanager
def noted(asking: tuple[int, ...] = ASKING) -> Iterator[Stop]:
    """Note the first of some signals; at the second, end at once: KeyboardInterrupt, or SystemExit of 128 + its number.

    In a thread that is not the main one nothing is noted, and nothing changed. What was done on these signals before is
    put back at the end.
    """
    stop = Stop()

    def note(number: int, frame: FrameType | None) -> None:
        if not stop.signal:
            stop.signal = number
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            raise SystemExit(128 + number)

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in asking:
            before[number] = signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def ending(number: int = signal.SIGTERM) -> Iterator[None]:
    """Let a signal that asks to stop end the program by SystemExit of 128 + its number, all in order."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, end)
    try:
        yield
    finally:
        signal.signal(number, before)
