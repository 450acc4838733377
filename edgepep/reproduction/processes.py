"""Runs in several processes at once, which end when they are done, when they are told to, and with their parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from edgepep.errors import Stopped
from edgepep.reproduction.identity import Plan
from edgepep.reproduction.runner import Said, Waiting, Where, perform


class _Worker:
    """A process that does one run after the other."""

    def __init__(self, where: Where) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_serve, args=(theirs, where), daemon=True)
        with _without_interrupts():
            self.process.start()
        theirs.close()
        self.plan: Plan | None = None

    def give(self, plan: Plan) -> None:
        """Have a run done."""
        self.plan = plan
        self.connection.send(plan)

    def hear(self) -> Said | None:
        """What the process says, or None once its run is over; a process that died says that its run failed."""
        try:
            said: Said | None = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            error = f"its process ended with exit code {self.process.exitcode}"
            return Said(self.plan, "failed", error=error) if self.plan else None
        return said

    def end(self) -> None:
        """Stop the process; a run that is under way keeps its state first."""
        self.process.terminate()
        with suppress(EOFError, OSError):
            while self.connection.recv() is not None:  # heard out, so that it never waits to say something
                pass
        self.connection.close()  # a run that ended as the signal came took no notice of it; the next recv does
        self.process.join()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Context in which Ctrl-C waits; a process that is started in it never hears one, not even as it imports torch."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def at_once(plans: Iterable[Plan], where: Where, jobs: int) -> Iterator[Said]:
    """Do runs in so many processes; each is asked for when one is free. Leaving the iterator stops them."""
    waiting = Waiting(plans)
    workers: list[_Worker] = []
    try:
        while True:
            while sum(bool(worker.plan) for worker in workers) < jobs and (plan := waiting.next()):
                free = next((worker for worker in workers if not worker.plan), None)
                if free is None:
                    workers.append(free := _Worker(where))
                free.give(plan)
            busy = [worker.connection for worker in workers if worker.plan]
            if not busy:
                return
            heard = wait(busy)
            for worker in [worker for worker in workers if worker.connection in heard]:
                said = worker.hear()
                if said is None:
                    worker.plan = None
                    continue
                if said.what == "busy":
                    waiting.again.append(said.plan)
                yield said
                if worker.process.exitcode is not None:
                    workers.remove(worker)
    finally:
        for worker in workers:
            worker.end()


def _serve(connection: Connection, where: Where) -> None:
    """Do the runs that come, until there are no more."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    while True:
        try:
            plan = connection.recv()
        except EOFError:
            return
        try:
            for said in perform(plan, where, (signal.SIGTERM,)):
                connection.send(said)
        except Stopped:  # its state is kept
            return
        connection.send(None)


def _end_with_parent() -> None:
    """End this process at once when its parent has gone, however it went: nobody hears it any more."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
