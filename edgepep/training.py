"""Fit a rule to data, and run a recipe from data to a run directory."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR

from edgepep import checkpoint, datasets, rundir
from edgepep.angles import Angles
from edgepep.build import rule_class
from edgepep.datasets import Data
from edgepep.epoch import Epoch, Progress
from edgepep.errors import EdgepepError
from edgepep.evaluation import evaluate
from edgepep.group import PARTS, Group
from edgepep.keeper import AS_USUAL, Keeper, Policy
from edgepep.loop import BeforeStep, Loop
from edgepep.models import Recipe
from edgepep.parallel import Parallel, begin_together, follow
from edgepep.rule import Rule
from edgepep.synapses import calibrate
from edgepep.updater import InPlaceSGD

__all__ = ["Epoch", "Policy", "Progress", "check_device", "evaluate", "fit", "prepare", "train"]


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
    held_out: Data | None = None,
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
        held_out: evaluated after each epoch in place of a test set, such as the second part of `data.split(200)`.
        watch: called every few steps.
        before_step: called with (rule, x, target, samples) before every step, such as an edgepep.Diagnostics.

    Raises:
        EdgepepError: at once, if something else is given than Data.
        DivergenceError: as soon as the loss is seen not to be finite.

    """
    for name, given in (("data", data), ("test", test), ("held_out", held_out)):
        if not isinstance(given, Data) and (given is not None or name == "data"):
            raise EdgepepError(
                f"{name} is a {type(given).__name__}; fit takes datasets.Data(name, inputs, labels, classes), inputs "
                "[samples, ...] and labels [samples] being tensors."
            )
    return Loop(
        rule,
        data,
        optimizer,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        scheduler=scheduler,
        test=test,
        held_out=held_out,
        watch=watch,
        before_step=before_step,
    ).run()


def prepare(recipe: Recipe, rule: str, seed: int, data: Data, device: str) -> tuple[Rule, InPlaceSGD, LRScheduler]:
    """Network, rule and optimizer of a recipe, ready to fit; activation quantisers are calibrated on a few batches."""
    network = recipe.under(rule).build(seed, device)
    settings = recipe.settings(rule)
    made = recipe.make_rule(network, rule, seed)
    calibrate(network, (x for x, *_ in islice(data.shuffled(settings.batch_size, seed, 0), 20)))
    optimizer = InPlaceSGD(
        network,
        settings.learning_rate,
        settings.momentum,
        settings.weight_decay,
        settings.rates,
        noise=settings.update_noise or 0.0,
        seed=seed,
    )
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
    policy: Policy = AS_USUAL,
    group: Group | None = None,
    angles: bool = False,
) -> Iterator[Epoch]:
    """Run a recipe, yielding each Epoch; with `out`, keep it in a run directory.

    An unfinished run that is already there, and was asked the same, is gone on with where its last state was kept, in
    the middle of an epoch too: on a CPU, with as many threads, it ends at the same weights, bit for bit. Epochs that
    were finished before are in its metrics.jsonl and are not yielded again.

    Args:
        recipe: from `edgepep.load`. Where it holds out training samples, epochs are judged by those, and the test set
            is not read.
        rule: a rule's name; else the recipe's own.
        epochs: else the recipe's.
        seed: of weights, feedback, dropout and the order of the samples.
        device: "cpu" or "cuda".
        data_dir: where the data are; else $EDGEPEP_DATA, else a folder in the user's cache.
        out: directory of the run; None keeps nothing.
        watch: called every few steps.
        before_step: called before every step, such as an edgepep.Diagnostics.
        policy: when to keep the state, and what to do when the loss is not finite or a signal asks to stop.
        group: of processes that share each step, from `edgepep.group.joined`; the first keeps the run and yields.
        angles: measure, after each epoch, the angle between each layer's update and the exact gradient, and between
            its feedback and its weights, on the first batch of the first epoch; training is the same without.

    Raises:
        EdgepepError: for a device or epochs that cannot be, and what loading, building and fitting raise.

    """
    rule = rule or recipe.rule
    settings = recipe.settings(rule)
    epochs = settings.epochs if epochs is None else epochs
    if epochs < 1:
        raise EdgepepError(f"epochs is {epochs}; it must be at least 1.")
    rule_class(rule)  # a name that is wrong is said before data are loaded
    check_device(device)
    parts = PARTS if group else 1
    path, asked = None if out is None else Path(out), checkpoint.asked_for(recipe, rule, seed, epochs, device, parts)
    if group and policy.on_divergence != "stop":
        raise EdgepepError(f"on_divergence is {policy.on_divergence!r}; several processes can only stop.")
    rank = group.rank if group else 0
    if rank:
        path = None  # the first process keeps the run
    if path:
        rundir.check(path, asked, policy.resume)
    elif policy.on_divergence != "stop":
        raise EdgepepError(f"on_divergence is {policy.on_divergence!r}, which needs a run directory to reload from.")
    data, held_out = datasets.load(recipe.dataset, True, data_dir).to(device), None
    test = None if settings.held_out else datasets.load(recipe.dataset, False, data_dir).to(device)
    if settings.held_out:
        data, held_out = data.split(settings.held_out)
    data = data.without(settings.without or ())
    made, optimizer, scheduler = prepare(recipe, rule, seed, data, device)
    loop = Loop(
        made,
        data,
        optimizer,
        epochs=epochs,
        batch_size=settings.batch_size,
        seed=seed,
        scheduler=scheduler,
        test=test,
        held_out=held_out,
        watch=watch,
        before_step=before_step,
        angles=Angles(*next(data.shuffled(settings.batch_size, seed, 1))) if angles and not rank else None,
    )
    if group is None:
        yield from loop.run() if path is None else Keeper(path, loop, recipe, asked, policy).run()
        return
    step = Parallel(made, optimizer, group, data.take(slice(0, loop.batch_size)), policy.stop)
    loop.learn = step
    if group.rank:
        follow(loop, group, step)
    elif path is None:
        begin_together(loop, group)
        yield from loop.run()
    else:
        keeper = Keeper(path, loop, recipe, asked, policy._replace(stop=lambda: step.stopped))
        keeper.began = lambda: begin_together(loop, group)
        yield from keeper.run()


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
