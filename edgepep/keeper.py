"""Keeping a run in its directory: now and then, when it is asked to stop, and never a bad state over a good one."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from edgepep import checkpoint, divergence, durable, rundir, states
from edgepep.epoch import Epoch
from edgepep.errors import DivergenceError, RunError, Stopped
from edgepep.loop import Loop
from edgepep.models import Recipe
from edgepep.rule import one_of, within

HALVINGS = 16
"""Of the learning rate, after which a run that still diverges is given up."""


class Policy(NamedTuple):
    """When a run is kept, and what is done with it when things go wrong."""

    save_every: float = 30.0
    """Seconds between two states."""
    save_steps: int = 0
    """Steps between two states; 0 goes by the time alone."""
    on_divergence: str = "stop"
    """"stop", or "reload-and-halve": go back to the last state, and on at half the learning rate."""
    resume: bool | None = None
    """Whether there has to be a run to go on with; None goes on with it if there is."""
    stop: Callable[[], int] | None = None
    """Says which signal has asked to stop, 0 if none has; asked after every step."""
    tell: Callable[[str], None] | None = None
    """Called with what a person should know: that a run goes on, or goes back."""


AS_USUAL = Policy()


class Keeper:
    """A run in its directory.

    Args:
        folder: of the run; made if it is not there.
        loop: at its beginning.
        recipe: of what it trains.
        asked: what the run is asked to do, from `checkpoint.asked_for`.
        policy: when to save, and so on.

    Raises:
        EdgepepError: if the policy cannot be.

    """

    def __init__(self, folder: Path, loop: Loop, recipe: Recipe, asked: dict[str, Any], policy: Policy) -> None:
        within("save_every", policy.save_every, 0.0, float("inf"))
        within("save_steps", policy.save_steps, 0, float("inf"))
        one_of("on_divergence", policy.on_divergence, "stop", "reload-and-halve")
        self.folder, self.loop, self.recipe, self.asked, self.policy = folder, loop, recipe, asked, policy
        self.most = checkpoint.most_bytes(loop.rule) + 32 * len(loop.data) * loop.data.classes
        self.halvings, self._next, self._saved = 0, 0.0, -1
        self.began: Callable[[], None] | None = None
        """Called when the loop stands where it is to go on from."""

    def run(self) -> Iterator[Epoch]:
        """Begin the run, or go on with it, to its end; yields the epochs that are done here.

        Raises:
            RunError: if the directory cannot be used as asked, or written.
            Stopped: if a signal asked for it; the state is kept.
            DivergenceError: if numbers are not finite; the last good state is kept.

        """
        with rundir.held(self.folder, self.asked, self.policy.resume) as fresh:
            self._begin() if fresh else self._resume()
            if self.began is not None:
                self.began()
            self.loop.after_step = lambda outcome: self._after_step()
            self.loop.between = self._obey
            while self.loop.epoch <= self.loop.epochs:
                try:
                    for epoch in self.loop.run():
                        checkpoint.note(self.folder, epoch.table())
                        checkpoint.save_weights(self.folder, self.loop.rule)
                        yield epoch
                except DivergenceError as error:
                    self._recover(error)
            self._finish()

    def _begin(self) -> None:
        asked = {key: value for key, value in self.asked.items() if key != "recipe"}
        checkpoint.begin(self.folder, self.recipe, **asked)
        self.save()

    def _resume(self) -> None:
        """Go on from the newest state that can be used."""
        state, path = self._load()
        self.halvings = state["halvings"]
        self._saved = self.loop.done
        checkpoint.rewrite_metrics(self.folder, [epoch.table() for epoch in self.loop.history])
        self._wait()
        self._tell(f"going on from {path.name}: epoch {self.loop.epoch}, {self.loop.step} of {self.loop.steps} steps")

    def _load(self) -> tuple[dict[str, Any], Path]:
        """Put the loop where the newest usable state says; those that are not are set aside."""
        for path in states.found(self.folder):
            try:
                state = states.read(path, self.most)
                if not isinstance(state, dict) or state.keys() != {"asked", "halvings", "loop"}:
                    raise RunError(f"{path} is not the state of a run.")
                other = checkpoint.differing(state["asked"], self.asked)
                if other or type(state["halvings"]) is not int:
                    raise RunError(f"{path} is the state of another run: {other}.")
                self.loop.load_state_dict(state["loop"])
                return state, path
            except RunError as error:
                states.set_aside(path)
                self._tell(f"{error} It is set aside.")
        raise RunError(f"no state in {self.folder} can be used; remove the directory, or name another with --out.")

    def save(self) -> None:
        """Write a state now, unless its numbers are not finite.

        Raises:
            DivergenceError: if they are not; nothing is written.

        """
        if self._saved != self.loop.done:
            self.loop.check()
            state = {"asked": self.asked, "halvings": self.halvings, "loop": self.loop.state_dict()}
            states.write(self.folder, self.loop.done, state)
            self._saved = self.loop.done
        self._wait()

    def _wait(self) -> None:
        self._next = time.monotonic() + self.policy.save_every

    def _after_step(self) -> None:
        self._obey()
        steps = self.policy.save_steps
        if (steps and self.loop.done % steps == 0) or time.monotonic() >= self._next:
            self.save()

    def _obey(self) -> None:
        """Keep the state and stop, if a signal has asked for it."""
        number = self.policy.stop() if self.policy.stop else 0
        if number:
            self.save()
            name = signal.Signals(number).name
            where = f"epoch {self.loop.epoch}, {self.loop.step} of {self.loop.steps} steps"
            raise Stopped(f"stopped by {name}; the state ({where}) is kept in {self.folder}, --resume goes on.", number)

    def _recover(self, error: DivergenceError) -> None:
        """Say where and why numbers went wrong; then stop, or go back and on at half the rate."""
        if self.loop.learn is not self.loop.rule:  # other processes have their share in each step
            raise error
        last = self.loop.done
        state, path = self._load()
        found = divergence.Replay(self.loop).find(last)
        self.loop.load_state_dict(state["loop"])
        cause = divergence.likely_cause(self.loop)
        what = f"training has diverged at {found}, the first number to go wrong." if found else str(error)
        halving = self.policy.on_divergence == "reload-and-halve"
        if not halving or self.halvings >= HALVINGS:
            given_up = f" Given up after {self.halvings} halvings." if halving else ""
            raise DivergenceError(f"{what} {cause}{given_up} The last good state, {path.name}, is kept.") from error
        self.loop.load_state_dict(state["loop"])
        checkpoint.rewrite_metrics(self.folder, [epoch.table() for epoch in self.loop.history])
        self.halvings += 1
        rates = self._slow(0.5 ** (self.halvings - state["halvings"]))
        self._saved = self.loop.done
        self._wait()
        self._tell(f"{what} {cause} Back to {path.name}, and on at half the learning rate, {rates}.")

    def _slow(self, factor: float) -> str:
        """Multiply every learning rate; return what they are now."""
        for group in self.loop.optimizer.param_groups:
            for key in ("lr", "initial_lr"):
                if key in group:
                    group[key] = group[key] * factor
        scheduler = self.loop.scheduler
        if scheduler is not None:
            scheduler.base_lrs = [rate * factor for rate in scheduler.base_lrs]
        return ", ".join(sorted({f"{float(group['lr']):g}" for group in self.loop.optimizer.param_groups}))

    def _finish(self) -> None:
        """Write what is left of the run, and let go of its states."""
        checkpoint.rewrite_metrics(self.folder, [epoch.table() for epoch in self.loop.history])
        checkpoint.save_weights(self.folder, self.loop.rule)
        checkpoint.finish(self.folder)
        for path in states.found(self.folder):
            durable.remove(path)

    def _tell(self, text: str) -> None:
        if self.policy.tell:
            self.policy.tell(text)
