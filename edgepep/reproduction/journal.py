"""The trials of a search, kept by Optuna in a journal that several processes write at once."""

from __future__ import annotations

import os
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from edgepep.errors import RunError
from edgepep.reproduction.space import Dimension, Space
from edgepep.reproduction.store import Store

if TYPE_CHECKING:
    from pathlib import Path

NAME = "search.journal"
_SEED = 1_000_003  # times the trial's number: every trial has its own random numbers, however often it is stopped
_PROCESS = "process"


class Trial(NamedTuple):
    """A trial: its number, what was drawn by key, and its score once it is finished."""

    number: int
    drawn: dict[str, Any]
    score: float | None = None


class Journal:
    """A search's trials, in the folder of its results.

    A process that works on a search holds a lock of its own for as long as it lives; a trial that is under way names
    it. So a trial whose process has ended, however it ended, is known: it is marked failed, and its point is the next
    to be tried.

    Args:
        space: what is searched.
        store: of the runs.

    Raises:
        RunError: if Optuna is not installed, or the journal is damaged or cannot be written.

    """

    def __init__(self, space: Space, store: Store) -> None:
        optuna = _optuna()
        self.space, self.store, self.path = space, store, store.folder / NAME
        self.process = uuid.uuid4().hex[:12]
        self._alone = store.lock_file("search")
        with self._alone, _understood(self.path):
            _mend(self.path)
            backend = optuna.storages.journal.JournalFileBackend(str(self.path), _Lock(store))
            storage = optuna.storages.JournalStorage(backend)
            self.study = optuna.create_study(
                storage=storage, study_name=space.name, direction="maximize", load_if_exists=True
            )

    @contextmanager
    def working(self) -> Iterator[None]:
        """Context in which this process has trials; those that it leaves unfinished are given back."""
        alive = self.store.lock_file(f"process-{self.process}")
        with alive:
            try:
                yield
            finally:
                with self._alone:
                    self._give_back([trial for trial in self._trials("RUNNING") if _of(trial) == self.process])
                with suppress(OSError):  # gone with the folder
                    os.unlink(alive.lock_file)

    def begin(self, total: int) -> Trial | None:
        """A new trial, unless as many are finished or under way; those of processes that have ended come first."""
        optuna = _optuna()
        with self._alone, _understood(self.path):
            running = self._trials("RUNNING")
            ended = [trial for trial in running if not self._lives(_of(trial))]
            self._give_back(ended)
            if len(self._trials("COMPLETE")) + len(running) - len(ended) >= total:
                return None
            number = len(self.study.get_trials(deepcopy=False))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                self.study.sampler = optuna.samplers.TPESampler(seed=_SEED * number % 2**32, constant_liar=True)
                begun = self.study.ask({one.key: _distribution(one) for one in self.space.dimensions})
            begun.set_user_attr(_PROCESS, self.process)
            return Trial(begun.number, dict(begun.params))

    def finish(self, trial: Trial, score: float) -> None:
        """Write a trial's score, the mean accuracy in percent."""
        with _understood(self.path):
            self.study.tell(trial.number, score)

    def fail(self, trial: Trial) -> None:
        """Write that a trial gave no score."""
        with _understood(self.path):
            self.study.tell(trial.number, state=_optuna().trial.TrialState.FAIL)

    def finished(self) -> list[Trial]:
        """Trials with a score, in their order."""
        with _understood(self.path):
            return _scored(self.study)

    def _trials(self, state: str) -> list[Any]:
        return _trials(self.study, state)

    def _give_back(self, trials: list[Any]) -> None:
        for trial in trials:
            self.study.tell(trial.number, state=_optuna().trial.TrialState.FAIL)
            self.study.enqueue_trial(trial.params)

    def _lives(self, process: str | None) -> bool:
        """Whether a process holds its lock; one that has named no process has ended between two lines of `begin`."""
        from filelock import Timeout

        if process == self.process:
            return True
        if process is None:
            return False
        lock = self.store.lock_file(f"process-{process}")
        try:
            with lock.acquire(timeout=0), suppress(OSError):
                os.unlink(lock.lock_file)
            return False
        except Timeout:
            return True


def finished(space: Space, store: Store) -> list[Trial]:
    """Trials of a search that have a score, in their order; nothing is written.

    Raises:
        RunError: if Optuna is not installed, or the journal is damaged.

    """
    optuna, path = _optuna(), store.folder / NAME
    if not path.exists():
        return []
    with _understood(path):
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
        names = [study.study_name for study in storage.get_all_studies()]
        return _scored(optuna.load_study(study_name=space.name, storage=storage)) if space.name in names else []


class _Lock:
    """Of the journal: free again as soon as its process has ended, which Optuna's own are not."""

    def __init__(self, store: Store) -> None:
        self.lock = store.lock_file("journal")

    def acquire(self) -> bool:
        self.lock.acquire()
        return True

    def release(self) -> None:
        self.lock.release()


@contextmanager
def _understood(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot use {path}: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path} is damaged: {error}. Remove it: the runs are stored beside it, and a search finds them."
        ) from error


def _trials(study: Any, state: str) -> list[Any]:
    return list(study.get_trials(deepcopy=False, states=(_optuna().trial.TrialState[state],)))


def _scored(study: Any) -> list[Trial]:
    return [Trial(trial.number, dict(trial.params), trial.value) for trial in _trials(study, "COMPLETE")]


def _of(trial: Any) -> str | None:
    found: str | None = trial.user_attrs.get(_PROCESS)
    return found


def _distribution(one: Dimension) -> Any:
    found = _optuna().distributions
    if one.choices:
        return found.CategoricalDistribution(tuple(one.choices))
    if one.whole:
        return found.IntDistribution(int(one.low), int(one.high))
    return found.FloatDistribution(one.low, one.high, log=one.by_factors)


def _mend(path: Path) -> None:
    """Take away half a line that a process has left which was killed as it wrote: nobody has read it."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise RunError("--search needs Optuna: pip install 'edgepep[search]'.") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
