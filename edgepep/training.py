"""Epochs: fit a rule to data, evaluate a network, and run a recipe from data to a run directory."""

import math
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR

from edgepep import checkpoint, datasets
from edgepep.build import rule_class
from edgepep.datasets import Data
from edgepep.errors import DivergenceError, EdgepepError
from edgepep.models import Recipe
from edgepep.network import Network
from edgepep.rule import Rule
from edgepep.synapses import calibrate
from edgepep.updater import InPlaceSGD

BeforeStep = Callable[[Rule, Tensor, Tensor, Tensor], None]
_LOOK_EVERY = 50  # steps between looks at the loss, each of which waits for the device


class Progress(NamedTuple):
    """How training stands in the middle of an epoch."""

    epoch: int
    step: int
    steps: int
    loss: float
    accuracy: float


class Epoch(NamedTuple):
    """What one epoch gave: mean training loss, accuracies in percent, seconds of training."""

    epoch: int
    loss: float
    train_accuracy: float
    test_accuracy: float
    seconds: float


def fit(
    rule: Rule,
    data: Data,
    optimizer: Optimizer,
    *,
    epochs: int = 1,
    batch_size: int = 64,
    seed: int = 0,
    scheduler: LRScheduler | None = None,
    test: Data | None = None,
    watch: Callable[[Progress], None] | None = None,
    before_step: BeforeStep | None = None,
) -> Iterator[Epoch]:
    """Train, yielding one Epoch after each epoch.

    Args:
        rule: called on each batch.
        data: training set, on the rule's device.
        optimizer: an InPlaceSGD of the rule's network, or any torch optimizer over its parameters.
        epochs: number of passes over the data.
        batch_size: samples a step; the last batch of an epoch may be shorter.
        seed: of the order of the samples.
        scheduler: stepped after each epoch.
        test: evaluated after each epoch; never used to choose anything.
        watch: called every few steps.
        before_step: called with (rule, x, target, samples) before every step, such as an edgepep.Diagnostics.

    Raises:
        DivergenceError: as soon as the loss is seen not to be finite.

    """
    for epoch in range(1, epochs + 1):
        started = time.perf_counter()
        loss, accuracy = _one_epoch(rule, data, optimizer, batch_size, seed, epoch, watch, before_step)
        seconds = time.perf_counter() - started
        if scheduler is not None:
            scheduler.step()
        yield Epoch(epoch, loss, accuracy, evaluate(rule, test) if test else math.nan, seconds)


def _one_epoch(
    rule: Rule,
    data: Data,
    optimizer: Optimizer,
    batch_size: int,
    seed: int,
    epoch: int,
    watch: Callable[[Progress], None] | None,
    before_step: BeforeStep | None,
) -> tuple[float, float]:
    """Mean loss and accuracy in percent over one epoch's batches, as they were before each update."""
    rule.train()
    steps = math.ceil(len(data) / batch_size)
    total = torch.zeros(2, device=data.labels.device)
    seen = 0
    for step, (x, target, samples) in enumerate(data.shuffled(batch_size, seed, epoch), 1):
        if before_step is not None:
            before_step(rule, x, target, samples)
        optimizer.zero_grad()
        outcome = rule(x, target, samples)
        optimizer.step()
        seen += len(target)
        right = (outcome.logits.argmax(1) == target).sum()
        total += torch.stack([outcome.loss * len(target), right])
        if step % _LOOK_EVERY == 0 or step == steps:
            loss, accuracy = (total / seen).tolist()
            if not math.isfinite(loss):
                raise DivergenceError(
                    f"the loss is {loss} by step {step} of epoch {epoch}: training has diverged. "
                    "Lower the learning rate or the strength of the feedback."
                )
            if watch:
                watch(Progress(epoch, step, steps, loss, 100 * accuracy))
    return loss, 100 * accuracy


@torch.no_grad()
def evaluate(trained: Rule | Network, data: Data, batch_size: int = 1000) -> float:
    """Accuracy in percent on a data set, in evaluation mode; the mode is put back.

    Args:
        trained: a rule, which knows how its network is to be asked, or a network, of which the largest logit counts.
        data: on the same device.
        batch_size: samples at a time.

    """
    was_training = trained.training
    trained.eval()
    scores = trained.predict if isinstance(trained, Rule) else trained
    right = torch.zeros((), dtype=torch.int64, device=data.labels.device)
    for x, target in data.in_order(batch_size):
        right += (scores(x).argmax(1) == target).sum()
    trained.train(was_training)
    return 100 * int(right) / len(data)


def prepare(recipe: Recipe, rule: str, seed: int, data: Data, device: str) -> tuple[Rule, InPlaceSGD, LRScheduler]:
    """Network, rule and optimizer of a recipe, ready to fit; activation quantisers are calibrated on a few batches."""
    network = recipe.under(rule).build(seed, device)
    settings = recipe.settings(rule)
    made = recipe.make_rule(network, rule, seed)
    calibrate(network, (x for x, *_ in islice(data.shuffled(settings.batch_size, seed, 0), 20)))
    optimizer = InPlaceSGD(network, settings.learning_rate, settings.momentum, settings.weight_decay, settings.rates)
    return made, optimizer, MultiStepLR(optimizer, list(settings.decay_epochs), settings.decay_factor)


def train(
    recipe: Recipe,
    *,
    rule: str | None = None,
    epochs: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    data_dir: Path | str | None = None,
    out: Path | str | None = None,
    watch: Callable[[Progress], None] | None = None,
    before_step: BeforeStep | None = None,
) -> Iterator[Epoch]:
    """Run a recipe, yielding each Epoch; with `out`, keep it in a run directory.

    Args:
        recipe: from `edgepep.load`.
        rule: a rule's name; else the recipe's own.
        epochs: else the recipe's.
        seed: of weights, feedback, dropout and the order of the samples.
        device: "cpu" or "cuda".
        data_dir: where the data are; else $EDGEPEP_DATA, else a folder in the user's cache.
        out: directory to make for the run; None keeps nothing.
        watch: called every few steps.
        before_step: called before every step, such as an edgepep.Diagnostics.

    Raises:
        EdgepepError: for a device or epochs that cannot be, and what loading, building and fitting raise.

    """
    rule = rule or recipe.rule
    epochs = recipe.settings(rule).epochs if epochs is None else epochs
    if epochs < 1:
        raise EdgepepError(f"epochs is {epochs}; it must be at least 1.")
    rule_class(rule)  # a name that is wrong is said before data are loaded
    check_device(device)
    data, test = (datasets.load(recipe.dataset, part, data_dir).to(device) for part in (True, False))
    data = data.without(recipe.settings(rule).without or ())
    made, optimizer, scheduler = prepare(recipe, rule, seed, data, device)
    path = None if out is None else checkpoint.fresh_directory(out)
    if path:
        checkpoint.begin(path, recipe, rule, seed, epochs=epochs, device=device)
    batch_size = recipe.settings(rule).batch_size
    for epoch in fit(
        made,
        data,
        optimizer,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        scheduler=scheduler,
        test=test,
        watch=watch,
        before_step=before_step,
    ):
        if path:
            checkpoint.note(path, epoch._asdict())
            checkpoint.save_weights(path, made)
        yield epoch


def check_device(device: str) -> None:
    """Raise EdgepepError unless torch can compute on a device here."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        here = [
            "cpu",
            *(["cuda"] if torch.cuda.is_available() else []),
            *(["mps"] if torch.backends.mps.is_available() else []),
        ]
        raise EdgepepError(f"cannot compute on device {device!r}. There are: {', '.join(here)}.") from error
