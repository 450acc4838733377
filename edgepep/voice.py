"""One voice for the processes that torchrun has started: what goes wrong is said once, by the one that knows."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from edgepep.errors import EdgepepError, Lost, Stopped

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

_PATIENCE = 10.0  # seconds for which a process that has failed waits to hear how the others end
_LOOK = 0.05


class End(NamedTuple):
    """How a process has ended: by an error of its own, because another has, or because it was asked to."""

    kind: str
    text: str
    code: int


@contextmanager
def one_voice() -> Iterator[bool]:
    """Context of a whole program; gives True if it is the only process, and then does nothing.

    Of several, each posts how it has failed, and one prints. An error of the first process, which all may have hit
    alike, is printed by that one as if it were alone. Else the first that failed by itself says which one it is, such
    as process 1 of 4. All end with an exit code that is not 0, and none before it is said: torchrun ends all when one
    ends.

    Raises:
        SystemExit: once it has been said.

    """
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if size <= 1:
        yield True
        return
    try:
        yield False
    except (SystemExit, BrokenPipeError):
        raise
    except KeyboardInterrupt:
        if rank == 0:
            raise
        raise SystemExit(130) from None
    except Exception as error:
        from edgepep import signals

        with signals.noted():  # torchrun's word that another process has ended is not to cut this one's short
            _end(error, rank, size)


def said(error: EdgepepError) -> str:
    """An error as the command line prints it."""
    return f"edgepep: {error}" if isinstance(error, Stopped) else f"edgepep: error: {error}"


def _end(error: Exception, rank: int, size: int) -> None:
    """Agree with the others on who prints, and print or hear that it has been done."""
    from edgepep.group import meeting

    own = _end_of(error)
    try:
        board = _Board(meeting(_PATIENCE), rank, size)
        board.post(own)
        first = board.first(own)
        if first == rank:
            if board.claim():
                _print(error, board.named(own))
            board.done()
        else:
            board.wait(board.is_done)
        board.leave()
    except RuntimeError:  # nobody is there to agree with
        if rank == 0 or own.kind == "own":
            _print(error, own.text if rank == 0 else f"process {rank} of {size}: {own.text}")
    raise SystemExit(own.code) from None


def _end_of(error: Exception) -> End:
    if isinstance(error, EdgepepError):
        kinds = {Lost: "lost", Stopped: "stopped"}
        return End(kinds.get(type(error), "own"), str(error), error.code)
    if hasattr(error, "format_message"):  # of arguments, by typer
        return End("own", error.format_message(), int(getattr(error, "exit_code", 2)))
    where = traceback.extract_tb(error.__traceback__)[-1]
    first = (str(error).splitlines() or [""])[0]
    return End("own", f"{type(error).__name__}: {first} ({where.filename}, line {where.lineno})", 1)


def _print(error: Exception, text: str) -> None:
    """Print an error that is this process' alone, or all of them have hit, as one process would; else its text."""
    sys.stdout.flush()
    if text != _end_of(error).text:
        print(f"edgepep: error: {text}", file=sys.stderr, flush=True)
    elif isinstance(error, EdgepepError):
        print(said(error), file=sys.stderr, flush=True)
    elif hasattr(error, "show"):
        error.show()
    else:
        traceback.print_exception(error)
    sys.stderr.flush()


class _Board:
    """What all processes read and write."""

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self.store, self.rank, self.size = store, rank, size
        self.ends: dict[int, End] = {}

    def post(self, end: End) -> None:
        """Say how this process has ended."""
        self.ends[self.rank] = end
        self.store.set(f"end/{self.rank}", json.dumps(end))

    def first(self, own: End) -> int:
        """The process that is to print."""
        if self.rank or own.kind == "lost":
            self.wait(self._all_posted)
        if own.kind == "stopped":
            return 0
        failed = [rank for rank in sorted(self.ends) if self.ends[rank].kind != "lost"]
        return (failed or sorted(self.ends))[0]

    def named(self, own: End) -> str:
        """What this process prints of its end."""
        if self.rank == 0 and own.kind != "lost":
            return own.text
        if own.kind == "lost":
            silent = [rank for rank in range(self.size) if rank not in self.ends]
            return f"{self._names(silent)} ended without a word, killed perhaps." if silent else own.text
        return f"{self._names([rank for rank, end in sorted(self.ends.items()) if end.text == own.text])}: {own.text}"

    def _names(self, ranks: list[int]) -> str:
        return f"process{'es' if len(ranks) > 1 else ''} {' and '.join(map(str, ranks))} of {self.size}"

    def claim(self) -> bool:
        """Whether nobody has printed before."""
        return int(self.store.add("claimed", 1)) == 1

    def done(self) -> None:
        """Say that it is printed."""
        self.store.add("printed", 1)

    def is_done(self) -> bool:
        """Whether it is printed."""
        return int(self.store.add("printed", 0)) > 0

    def leave(self) -> None:
        """End when all that have failed have heard; the first process may be the one that keeps the board."""
        self.store.add("heard", 1)
        if self.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            self.wait(lambda: int(self.store.add("heard", 0)) >= self.size)

    def wait(self, there: Callable[[], Any]) -> None:
        """Wait until something is there, or for as long as it makes sense."""
        until = time.monotonic() + _PATIENCE
        while not there() and time.monotonic() < until:
            time.sleep(_LOOK)

    def _all_posted(self) -> bool:
        for rank in range(self.size):
            if rank not in self.ends and self.store.check([f"end/{rank}"]):
                self.ends[rank] = End(*json.loads(self.store.get(f"end/{rank}")))
        return len(self.ends) == self.size or (0 in self.ends and self.ends[0].kind != "lost")
