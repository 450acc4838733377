"""The loop of training, which can be left and taken up again between any two steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from edgepep import plain, randomness
from edgepep.datasets import Data
from edgepep.divergence import LOOK_EVERY, diverged, first_not_finite
from edgepep.epoch import Epoch, Progress
from edgepep.errors import RunError
from edgepep.evaluation import evaluate
from edgepep.recording import Recorder, Replayed, hooked, recorder_for, settings_of, tensors_of
from edgepep.rule import Outcome, Rule
from edgepep.updater import InPlaceSGD

BeforeStep = Callable[[Rule, Tensor, Tensor, Tensor], None]
_OWN = ("epoch", "step", "seen")


class Loop:
    """Epochs of steps, and where they stand.

    What goes on from step to step is in `state_dict`, and nowhere else: a fresh loop over the same things that is given
    it goes on bit for bit as this one would. So whatever a rule, an optimizer, a scheduler or a callback remembers has
    to be in its own `state_dict`: of a module, in buffers or in `get_extra_state`.

    Args:
        rule: called on each batch.
        data: training set, on the rule's device.
        optimizer: an InPlaceSGD of the rule's network, or any torch optimizer over its parameters.
        epochs: number of passes over the data.
        batch_size: samples a step; the last batch of an epoch may be shorter.
        seed: of the order of the samples.
        scheduler: stepped after each epoch.
        test: evaluated after each epoch; never used to choose anything.
        held_out: samples taken from the training set, evaluated after each epoch in place of a test set.
        watch: called every few steps.
        before_step: called with (rule, x, target, samples) before every step.
        angles: called with the rule after the last step of each epoch; the Epoch holds what it gives.

    """

    def __init__(
        self,
        rule: Rule,
        data: Data,
        optimizer: Optimizer,
        *,
        epochs: int = 1,
        batch_size: int = 64,
        seed: int = 0,
        scheduler: LRScheduler | None = None,
        test: Data | None = None,
        held_out: Data | None = None,
        watch: Callable[[Progress], None] | None = None,
        before_step: BeforeStep | None = None,
        angles: Callable[[Rule], dict[str, list[float | None]]] | None = None,
    ) -> None:
        self.rule, self.data, self.optimizer, self.scheduler = rule, data, optimizer, scheduler
        self.test, self.held_out = test, held_out
        self.epochs, self.batch_size, self.seed = epochs, batch_size, seed
        self.watch, self.before_step, self.angles = watch, before_step, angles
        self.learn: Callable[[Tensor, Tensor, Tensor], Outcome] = rule
        """What is called on each batch: the rule, or what shares its work among processes."""
        self.after_step: Callable[[Outcome], None] | None = None
        self.between: Callable[[], None] | None = None
        """Called between two batches of an evaluation."""
        self.steps = math.ceil(len(data) / batch_size)
        self.history: list[Epoch] = []
        self.epoch, self.step, self.seen = 1, 0, 0
        self.total = torch.zeros(2, device=data.labels.device)
        self._before: float = 0.0
        self._since: float | None = None
        self.replayed: Replayed | None = None
        recorder = recorder_for(rule, data.labels.device) if isinstance(optimizer, InPlaceSGD) else None
        if recorder is not None and before_step is None:
            self.record(recorder)
        self._begin(1)

    def record(self, recorder: Recorder) -> None:
        """Have steps recorded and replayed from now on: of an InPlaceSGD, and of a rule that is `replayable`."""
        rule, optimizer = self.rule, self.optimizer
        assert isinstance(optimizer, InPlaceSGD)
        optimizer.follow = False  # what is followed is multiplied afresh from time to time, which is not recorded
        self.replayed = Replayed(
            self._learn, lambda: settings_of(rule, optimizer), lambda: tensors_of(rule, optimizer), recorder
        )

    def run(self) -> Iterator[Epoch]:
        """Train from where it stands, yielding each Epoch when it is done.

        Raises:
            DivergenceError: as soon as the loss or the weights are seen not to be finite.

        """
        while self.epoch <= self.epochs:
            loss, train_accuracy = self._rest_of_epoch()
            angles = self.angles(self.rule) if self.angles else None
            test, held_out = self._accuracy(self.test), self._accuracy(self.held_out)
            if self.scheduler is not None:
                self.scheduler.step()
            test = math.nan if test is None else test
            self.history.append(Epoch(self.epoch, loss, train_accuracy, test, self.seconds, held_out, angles))
            self._begin(self.epoch + 1)
            yield self.history[-1]

    def _accuracy(self, data: Data | None) -> float | None:
        return evaluate(self.rule, data, between=self.between) if data else None

    def look(self) -> tuple[float, float]:
        """Mean loss and accuracy in percent so far in this epoch, which waits for the device.

        Raises:
            DivergenceError: if the loss is not finite.

        """
        if not self.seen:
            return math.nan, math.nan
        loss, accuracy = (self.total / self.seen).tolist()
        if not math.isfinite(loss):
            raise diverged(self, f"the loss is {loss}")
        return loss, 100 * accuracy

    def check(self) -> None:
        """Raise DivergenceError unless loss and weights are finite."""
        self.look()
        spoiled = first_not_finite(self.rule) or plain.not_finite(self.optimizer.state_dict()["state"], "velocity of")
        if spoiled:
            raise diverged(self, f"{spoiled.removeprefix('network.')} is not finite")

    @property
    def done(self) -> int:
        """Steps done since the beginning of training."""
        return (self.epoch - 1) * self.steps + self.step

    def state_dict(self) -> dict[str, Any]:
        """All that goes on from step to step, as plain data; tensors are those in use."""
        memory = getattr(self.before_step, "state_dict", None)
        return {
            **{name: getattr(self, name) for name in _OWN},
            "seconds": self.seconds,
            "total": self.total,
            "history": [epoch.row() for epoch in self.history],
            "rule": dict(self.rule.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "before_step": memory() if memory else None,
            "random": randomness.state(self.data.labels.device),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand where another loop over the same things stood.

        Raises:
            RunError: if the state is not that of such a loop; this one is then to be thrown away.

        """
        try:
            self._check_kind(state)
            self.rule.load_state_dict(state["rule"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.optimizer._opt_called = True  # type: ignore[attr-defined] # else torch warns of an order that is right
            if self.scheduler is not None:
                self.scheduler.load_state_dict(state["scheduler"])
            if state["before_step"] is not None:
                self.before_step.load_state_dict(state["before_step"])  # type: ignore[union-attr]
            self.history = [Epoch(*row) for row in state["history"]]
            self._begin(state["epoch"])
            self.step, self.seen, self._before = state["step"], state["seen"], state["seconds"]
            self.total.copy_(state["total"])
            randomness.restore(state["random"], self.data.labels.device)
        except RunError:
            raise
        except Exception as error:  # whatever a user's rule, optimizer or scheduler raises of a state it cannot use
            said = (str(error).splitlines() or ["?"])[0]
            raise RunError(f"the state does not fit: {type(error).__name__}: {said}") from error

    def _check_kind(self, state: dict[str, Any]) -> None:
        fresh = self.state_dict()
        for free in ("history", "random", "rule"):
            fresh[free] = state[free]
        fresh["optimizer"] = state["optimizer"] | {"param_groups": fresh["optimizer"]["param_groups"]}
        plain.check_like(state, fresh)
        place = state["epoch"], state["step"], state["seen"], len(state["history"])
        epoch, step, seen, finished = place
        right = 1 <= epoch <= self.epochs + 1 and 0 <= step <= self.steps and finished == epoch - 1
        if not right or seen != min(step * self.batch_size, len(self.data)):
            raise RunError(f"the state's epoch, step, samples and finished epochs are {place}, which cannot be.")

    def _begin(self, epoch: int) -> None:
        self.epoch, self.step, self.seen = epoch, 0, 0
        self.total.zero_()
        self._before = 0.0
        self._since = None

    @property
    def seconds(self) -> float:
        """Of training in this epoch."""
        return self._before + (0.0 if self._since is None else time.perf_counter() - self._since)

    def _rest_of_epoch(self) -> tuple[float, float]:
        """Do what is left of an epoch; mean loss and accuracy in percent, as they were before each update."""
        self.rule.train()
        self._since = time.perf_counter()
        learn: Callable[[Tensor], Outcome] = self._learn
        if self.replayed is not None and self.learn is self.rule and not hooked(self.rule):
            self.replayed.look()
            learn = self.replayed
        for samples in self.data.order(self.batch_size, self.seed, self.epoch, self.step):
            outcome = learn(samples)
            self.seen += len(samples)
            self.step += 1
            if self.step % LOOK_EVERY == 0 and self.step < self.steps:
                self._tell()
            if self.after_step is not None:
                self.after_step(outcome)
        self._before, self._since = self.seconds, None
        self.check()
        return self._tell()

    def _learn(self, samples: Tensor) -> Outcome:
        """Learn from a batch, and add up its loss and what was right; nothing here waits for the device."""
        x, target = self.data.take(samples)
        if self.before_step is not None:
            self.before_step(self.rule, x, target, samples)
        self.optimizer.zero_grad()
        outcome = self.learn(x, target, samples)
        self.optimizer.step()
        right = (outcome.logits.argmax(1) == target).sum()
        self.total += torch.stack([outcome.loss * len(target), right])
        return outcome

    def _tell(self) -> tuple[float, float]:
        loss, accuracy = self.look()
        if self.watch:
            self.watch(Progress(self.epoch, self.step, self.steps, loss, accuracy))
        return loss, accuracy
