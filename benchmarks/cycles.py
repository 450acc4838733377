"""What this process has cost: CPU cycles where the kernel counts them, else seconds on a CPU.

Either is blind to what else the machine does, which wall time is not. Threads and processes started after the meter was
made are counted too.
"""

import ctypes
import os
import platform
import struct
import sys
import time

_SYSCALLS = {"x86_64": 298, "aarch64": 241}  # perf_event_open
_SIZE = 128  # of struct perf_event_attr; type 0 is hardware, config 0 its cycles
_INHERIT, _USER_ONLY = 1 << 1, 1 << 5 | 1 << 6


class Meter:
    """Counts from when it is made; `unit` says what: "cycles", or "CPU ms" where the kernel offers none."""

    def __init__(self) -> None:
        self._file = _opened()
        self.unit = "CPU ms" if self._file is None else "cycles"

    def read(self) -> float:
        """So far."""
        if self._file is None:
            return 1e3 * _cpu_seconds()
        count: int = struct.unpack("<q", os.read(self._file, 8))[0]
        return float(count)


def _opened() -> int | None:
    """Descriptor of a counter of this process' cycles, with the kernel's if they may be seen; None if there is none."""
    number = _SYSCALLS.get(platform.machine())
    if number is None or not sys.platform.startswith("linux"):
        return None
    call = ctypes.CDLL(None).syscall
    for flags in (_INHERIT, _INHERIT | _USER_ONLY):
        asked = struct.pack("<IIQ24xQ", 0, _SIZE, 0, flags).ljust(_SIZE, b"\0")
        file: int = call(number, asked, 0, -1, -1, 0)
        if file >= 0:
            return file
    return None


def _cpu_seconds() -> float:
    """Of this process and of the processes that it has waited for."""
    if sys.platform == "win32":
        return time.process_time()
    import resource

    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
