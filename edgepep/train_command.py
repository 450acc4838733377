"""`edgepep train`: a typer command; torch is imported inside it only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from edgepep.errors import EdgepepError

if TYPE_CHECKING:
    from edgepep.diagnostics import Diagnostics
    from edgepep.epoch import Epoch
    from edgepep.models import Recipe

# typer reads these annotations when a command runs, so they are written out in full for Python 3.10.


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name (`edgepep models`), or a path to a .toml file.")],
    rule: Annotated[Optional[str], typer.Option(help="A rule's name (`edgepep rules`); else the recipe's.")] = None,  # noqa: UP045
    epochs: Annotated[Optional[int], typer.Option(help="Else the recipe's.")] = None,  # noqa: UP045
    seed: Annotated[int, typer.Option(help="Of weights, feedback, dropout and the order of samples.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    data_dir: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Where the data are; else $EDGEPEP_DATA, else the cache."),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Run directory to make, or to go on with if its run is unfinished; else one under runs/."),
    ] = None,
    dataset: Annotated[Optional[str], typer.Option(help="Else the recipe's.")] = None,  # noqa: UP045
    weight_bits: Annotated[Optional[int], typer.Option(help="Quantize weights, 1 to 8; else the recipe's.")] = None,  # noqa: UP045
    activation_bits: Annotated[Optional[int], typer.Option(help="Quantize activities, 2 to 8.")] = None,  # noqa: UP045
    freeze: Annotated[Optional[list[str]], typer.Option(help="Names of layers that rest, such as 0 or '[01]'.")] = None,  # noqa: UP045
    head: Annotated[Optional[str], typer.Option(help="Another rule for the last layers: NAME, or NAME:LAYERS.")] = None,  # noqa: UP045
    without: Annotated[Optional[list[int]], typer.Option(help="A class that training does not show.")] = None,  # noqa: UP045
    set: Annotated[Optional[list[str]], typer.Option("--set", help="Any setting: training.learning_rate=0.05.")] = None,  # noqa: UP045
    held_out: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Judge by so many training samples, not trained on, instead of the test set; 0 for none."),
    ] = None,
    diagnose: Annotated[int, typer.Option(help="Measure the rule's credit every so many steps; 0 for never.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the unfinished run that there must be.")] = False,
    save_every: Annotated[float, typer.Option(help="Seconds between two states that a run can go on from.")] = 30.0,
    save_steps: Annotated[int, typer.Option(help="Also every so many steps; 0 for no.")] = 0,
    on_divergence: Annotated[str, typer.Option(help="stop, or reload-and-halve the learning rate.")] = "stop",
) -> None:
    """Train a recipe and keep the run in a directory; a run that was interrupted goes on where it was."""
    from edgepep import checkpoint, models, signals, training
    from edgepep.group import PARTS, device_of, joined
    from edgepep.terminal import Report

    bits = {"weight_bits": weight_bits, "activation_bits": activation_bits}
    chosen = _set(_changed(models.load(recipe), dataset, bits, freeze, head), set or [], rule)
    training_of = {"without": without or None, "held_out": held_out}
    given = {key: value for key, value in training_of.items() if value is not None}
    chosen = chosen.but(training=given) if given else chosen
    watcher = _diagnostics(diagnose)
    rule = rule or chosen.rule
    settings = chosen.settings(rule)
    last: Epoch | None = None
    total = epochs if epochs is not None else settings.epochs
    with joined(device) as group, Report(total, silent=bool(group and group.rank)) as report, signals.noted() as stop:
        shared = f" · {group.size} processes" if group else ""
        if out is None:
            usual = Path("runs") / f"{chosen.name}-{rule}-seed{seed}"
            asked = checkpoint.asked_for(chosen, rule, seed, total, device, PARTS if group else 1)
            out = checkpoint.unfinished(usual, asked) if resume else checkpoint.free(usual)
        kept = f", {settings.held_out} held out" if settings.held_out else ""
        what = f"rule {rule} · data {chosen.dataset}{kept} · {total} epochs · seed {seed}{shared}"
        report.say(f"{chosen.name} · {what} · {out}")
        policy = training.Policy(save_every, save_steps, on_divergence, resume or None, stop, report.say)
        for epoch in training.train(
            chosen,
            rule=rule,
            epochs=epochs,
            seed=seed,
            device=device_of(device),
            data_dir=data_dir,
            out=out,
            watch=report.step,
            before_step=watcher,
            policy=policy,
            group=group,
        ):
            report.epoch(epoch)
            last = epoch
        if group and group.rank:
            return
    if watcher and watcher.history:
        step, found = watcher.history[-1]
        print(f"credit at step {step} (angles in degrees):\n{found}")
    if last is not None:
        _warn(chosen, rule, last)
    _say_published(chosen, rule)
    print(f"kept in {out}")


def _changed(
    recipe: Recipe, dataset: str | None, bits: dict[str, int | None], freeze: list[str] | None, head: str | None
) -> Recipe:
    """A recipe with what the command line changes in it."""
    from edgepep.tables import head_of

    if dataset:
        recipe = recipe.but(dataset=dataset)
    if any(value is not None for value in bits.values()):
        recipe = recipe.but(quantized={key: value for key, value in bits.items() if value is not None})
    if freeze:
        recipe = recipe.but(network={"frozen": [*recipe.network.frozen, *freeze]})
    return recipe.but(head=head_of(head)) if head else recipe


def _set(recipe: Recipe, words: list[str], rule: str | None) -> Recipe:
    """A recipe with settings changed by words such as training.learning_rate=0.05."""
    from edgepep import keys
    from edgepep.outside import is_outside
    from edgepep.toml_files import nested, value_of

    values = {}
    for word in words:
        key, equals, value = (part.strip() for part in word.partition("="))
        if not equals or not key or not value:
            raise EdgepepError(f"--set {word}: write key=value, such as training.learning_rate=0.05.")
        if key in ("rule", "seed"):
            raise EdgepepError(f"--set {word}: {key} is no setting of a recipe; write --{key} {value}.")
        if key in values:
            raise EdgepepError(f"--set {word}: {key} is set twice.")
        values[key] = value_of(value)
    keys.check(recipe, values, rule or recipe.rule)
    tables = nested(values)
    recipe = recipe.but(**tables) if tables else recipe
    parts = [rule or recipe.rule, *([recipe.head.rule] if recipe.head else [])]
    for name in tables.get("rules", {}):
        if is_outside(name) and name not in parts:
            raise EdgepepError(f"--set rules.{name}: the run does not learn by it, but by {' and '.join(parts)}.")
    return recipe


def _say_published(recipe: Recipe, rule: str) -> None:
    published = recipe.reported(rule)
    if published and not recipe.settings(rule).held_out:
        spread = f" ± {published.std}" if published.std is not None else ""
        epochs = recipe.settings(rule).epochs
        print(f"published after {epochs} epochs: {published.accuracy}{spread} % ({published.place})")


def _warn(recipe: Recipe, rule: str, last: Epoch) -> None:
    from edgepep import datasets

    classes = datasets.info(recipe.dataset).classes
    warning = last.warning(classes, classes - len(set(recipe.settings(rule).without or ())))
    if warning:
        print(f"warning: {warning}")


def _diagnostics(every: int) -> Diagnostics | None:
    if every < 0:
        raise EdgepepError(f"--diagnose is {every}; it must be at least 0.")
    if not every:
        return None
    from edgepep.diagnostics import Diagnostics

    return Diagnostics(every)
