"""What a person sees: a live bar on a terminal, plain lines in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from edgepep.training import Epoch, Progress


class Report:
    """Shows training as it goes on, and leaves one line an epoch behind.

    Args:
        epochs: how many there will be.
        silent: show nothing: another process does.

    """

    def __init__(self, epochs: int, silent: bool = False) -> None:
        self.epochs, self.silent = epochs, silent
        self.bar: Bar | None = None
        self.task: TaskID | None = None

    def __enter__(self) -> Report:
        if sys.stdout.isatty() and not self.silent:
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (BarColumn(bar_width=20), TextColumn("{task.description}"), TimeRemainingColumn(compact=True))
            self.bar = Bar(*columns, transient=True)
            self.bar.start()
            self.task = self.bar.add_task("", total=None)
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()

    def step(self, now: Progress) -> None:
        """Move the bar."""
        if self.bar and self.task is not None:
            text = f"epoch {now.epoch}/{self.epochs}  loss {now.loss:.4f}  train {now.accuracy:.1f} %"
            done = (now.epoch - 1) * now.steps + now.step
            self.bar.update(self.task, completed=done, total=self.epochs * now.steps, description=text)

    def say(self, line: str) -> None:
        """Print a line."""
        if self.silent:
            return
        if self.bar:
            self.bar.console.print(line, highlight=False)
        else:
            print(line, flush=True)

    def epoch(self, done: Epoch) -> None:
        """Print an epoch's line."""
        line = (
            f"epoch {done.epoch:>{len(str(self.epochs))}}/{self.epochs}  loss {done.loss:.4f}  "
            f"train {done.train_accuracy:.2f} %  {done.judged_on} {done.accuracy:.2f} %  {done.seconds:.1f} s"
        )
        self.say(line)


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], columns: Sequence[int] | None = None, elsewhere: str = ""
) -> None:
    """Print a table as wide as the terminal; in a pipe, tabs between columns and nothing cut.

    Args:
        head: names of the columns.
        rows: cells.
        columns: those that a narrow terminal shows; in a pipe, and from 120 characters on, all are.
        elsewhere: what shows the others too, where a narrow terminal does not.

    """
    if not sys.stdout.isatty():
        for row in (head, *rows):
            print("\t".join(row))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    chosen = range(len(head)) if columns is None or console.width >= 120 else columns
    shown = Table(*(head[c] for c in chosen), box=SIMPLE_HEAD, pad_edge=False)
    shown.columns[0].no_wrap = True
    for column in shown.columns[1:]:
        column.overflow = "fold"  # on more lines, with nothing cut off
    for row in rows:
        shown.add_row(*(row[c] for c in chosen))
    console.print(shown)
    others = ", ".join(head[c] for c in range(len(head)) if c not in chosen)
    if others:
        console.print(f"left out here: {others}; {elsewhere}".rstrip("; "), markup=False)
