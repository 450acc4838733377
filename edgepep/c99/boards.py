"""An exported folder, compiled by its own Makefile and run here or on a Cortex-M that QEMU emulates."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from edgepep.c99.host import compiler
from edgepep.errors import ExportError

BOARDS = {
    "host": "the machine that compiled it",
    "m3": "Cortex-M3, soft float (MPS2 AN385)",
    "m4": "Cortex-M4F (MPS2 AN386)",
    "m7": "Cortex-M7 (MPS2 AN500)",
    "lm3s": "Cortex-M3, soft float, 64 KB of RAM, 256 KB of flash (Stellaris LM3S6965)",
}
STACK = {"m3": 4096, "m4": 4096, "m7": 4096, "lm3s": 1024}
"""Bytes that the linker scripts set aside."""


@dataclass(frozen=True)
class Executed:
    """What a run of the bench said, and what the linker said: bytes, instructions, checksums."""

    board: str
    said: dict[str, int]
    sections: dict[str, int]
    """Bytes of .text, .data, .bss and .stack; none for the host."""

    def __getitem__(self, name: str) -> int:
        """A number by its name in bench.c."""
        return self.said[name]

    @property
    def static(self) -> int:
        """Bytes of .data and .bss."""
        return self.sections[".data"] + self.sections[".bss"]


def missing(board: str = "m4") -> str | None:
    """What a board needs that is not installed here; None if it can be run."""
    if shutil.which("make") is None:
        return "make"
    if board == "host":
        return None if compiler() else "a C compiler"
    tools = ("arm-none-eabi-gcc", "qemu-system-arm")
    return next((tool for tool in tools if shutil.which(tool) is None), None)


def run(folder: Path, board: str, steps: int = 100, rate: float = 0.01, limit: float = 600) -> Executed:
    """Compile the bench of a folder for a board, and run it.

    Args:
        folder: that was exported.
        board: one of BOARDS.
        steps: of training.
        rate: of learning.
        limit: seconds that the run may take.

    Raises:
        ExportError: if something is not installed, does not fit the board's memory, fails or takes too long.

    """
    lacking = missing(board)
    if lacking is not None:
        raise ExportError(f"the board {board} needs {lacking}, which is not installed here.")
    given = [f"STEPS={steps}", f"RATE={rate!r}f"]
    if board == "host":
        _made(folder, ["bench", f"CC={compiler()}", *given])
        out, sections = _done([str((folder / "bench").resolve())], folder, limit), {}
    else:
        sections = _sections(_made(folder, [board, *given]))
        out = _done(["make", "-s", "-o", board, f"run-{board}", *given], folder, limit)
    said = dict(re.findall(r"^(\w+) (\d+)$", out, re.MULTILINE))
    if "stack" not in said:
        raise ExportError(f"the bench of {folder.name} on {board} did not end: {out.strip()[-300:]}")
    return Executed(board, {name: int(value) for name, value in said.items()}, sections)


def _made(folder: Path, arguments: list[str]) -> str:
    done = subprocess.run(
        ["make", "-B", *arguments], cwd=folder, capture_output=True, text=True, check=False, env=_environment()
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line or "overflowed" in line]
        raise ExportError(f"{folder.name} does not compile: {'; '.join(lines[:2]) or done.stderr[-300:]}")
    return done.stdout


def _done(command: list[str], folder: Path, limit: float) -> str:
    """What a command says; it and all that it started are ended if it takes too long."""
    with subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        env=_environment(),
        start_new_session=True,
    ) as started:
        try:
            return started.communicate(timeout=limit)[0]
        except subprocess.TimeoutExpired as error:
            raise ExportError(f"{folder.name}: {command[0]} took longer than {limit:g} s.") from error
        finally:
            if started.poll() is None:
                os.killpg(started.pid, signal.SIGKILL)


def _environment() -> dict[str, str]:
    """Ours, without what another make has put there."""
    return {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}


def _sections(said: str) -> dict[str, int]:
    found = dict(re.findall(r"^(\.\w+) +(\d+) +\d+$", said, re.MULTILINE))
    return {name: int(found.get(name, 0)) for name in (".text", ".data", ".bss", ".stack")}
