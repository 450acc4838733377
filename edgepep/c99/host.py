"""An exported folder, compiled by this machine's C compiler and called from Python."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import torch
from torch import Tensor

from edgepep.errors import ExportError

FLAGS = ("-std=c99", "-ffp-contract=off", "-Wall", "-Wextra", "-Wpedantic", "-Werror")
"""What the Makefile uses too, with -O2."""
SOURCES = ("model.c", "weights.c", "ep_kernels.c", "ep_learn.c", "ep_heads.c", "ep_back.c", "ep_blob.c")


def compiler() -> str | None:
    """The C compiler: $CC, else cc or gcc; None if there is none."""
    named = os.environ.get("CC")
    return shutil.which(named) if named else shutil.which("cc") or shutil.which("gcc")


class Host:
    """The network of an exported folder, in this process; several may be loaded, each with its own memory.

    Args:
        folder: that was exported.
        level: of optimisation; the bits do not depend on it.

    Raises:
        ExportError: if there is no C compiler, or it refuses the sources.

    """

    def __init__(self, folder: Path, level: str = "-O2") -> None:
        found = compiler()
        if found is None:
            raise ExportError("there is no C compiler here: install gcc, or name one in $CC.")
        library = folder / "network.so"
        sources = [str(folder / name) for name in SOURCES]
        done = subprocess.run(
            [found, *FLAGS, level, "-shared", "-fPIC", "-o", str(library), *sources],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ExportError(f"{found} refuses the C of {folder}: {_first_error(done.stderr)}")
        self.library = ctypes.CDLL(str(library.resolve()))
        library.unlink()
        self.sizes = _sizes(folder / "config.h")
        for name in ("ep_logits", "ep_input", "ep_arena"):
            getattr(self.library, name).restype = ctypes.c_void_p
        self.library.ep_message.restype = ctypes.c_char_p
        self.start()

    def start(self) -> None:
        """Begin again from the weights of the export."""
        self.check(self.library.ep_start())

    def check(self, status: int) -> int:
        """Return a status that is none of the errors; else raise ExportError with its message."""
        if status < 0:
            raise ExportError(f"the device says: {self.library.ep_message(status).decode()}.")
        return status

    def infer(self, x: Tensor) -> Tensor:
        """Logits [classes] of one sample."""
        values = _floats(x)
        self.check(self.library.ep_infer(values, len(values)))
        classes = self.sizes["EP_CLASSES"]
        return torch.tensor((ctypes.c_float * classes).from_address(self.library.ep_logits())[:])

    def learn(self, x: Tensor, target: int, rate: float) -> int:
        """One step of training; the class said before it."""
        values = _floats(x)
        return self.check(self.library.ep_learn(values, len(values), ctypes.c_uint32(target), ctypes.c_float(rate)))

    def save(self) -> bytes:
        """The weights as they are now."""
        blob = ctypes.create_string_buffer(self.sizes["EP_BLOB"])
        self.check(self.library.ep_save(blob, len(blob)))
        return blob.raw

    def checksum(self) -> int:
        """CRC-32 of the weights as they are now."""
        return int(self.library.ep_weights_checksum()) % 2**32

    def load(self, blob: bytes) -> int:
        """Take weights; the status, which is negative if they are refused."""
        return int(self.library.ep_load(blob, len(blob)))

    def arena(self) -> ctypes.Array[ctypes.c_uint32]:
        """The words of the arena."""
        words = self.sizes["EP_ARENA"] // 4
        return (ctypes.c_uint32 * words).from_address(self.library.ep_arena())

    def touched(self, x: Tensor, target: int, rate: float) -> int:
        """Bytes of the arena that a step, or an inference of an export without a rule, writes to."""
        arena, paint = self.arena(), 0x5A5A5A5A
        for i in range(len(arena)):
            arena[i] = paint
        values = _floats(x)
        if self.library.ep_learn(values, len(values), target, ctypes.c_float(rate)) < 0:
            self.infer(x)
        return 4 * sum(word != paint for word in arena)


def _floats(x: Tensor) -> ctypes.Array[ctypes.c_float]:
    flat = x.detach().flatten().tolist()
    return (ctypes.c_float * len(flat))(*flat)


def _sizes(config: Path) -> dict[str, int]:
    """Sizes of a config.h."""
    words = (line.split() for line in config.read_text(encoding="utf-8").splitlines() if line.startswith("#define EP_"))
    return {w[1]: int(w[2].rstrip("u"), 0) for w in words if len(w) > 2}


def _first_error(said: str) -> str:
    lines = said.strip().splitlines()
    return next((line for line in lines if "error:" in line), lines[0] if lines else "no reason given")
