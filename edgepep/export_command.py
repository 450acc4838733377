"""`edgepep export`: a run's network, or its training step, in another form."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from edgepep.errors import EdgepepError

if TYPE_CHECKING:
    from edgepep.checkpoint import Run

SAMPLES = 1000  # real inputs on which an export is compared
DataDir = Annotated[Optional[Path], typer.Option(help="Where the data are; else $EDGEPEP_DATA, else the cache.")]  # noqa: UP045

Rule = Annotated[Optional[str], typer.Option(help="Where a step is written: whose; none; else the run's.")]  # noqa: UP045


def export(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    format: Annotated[str, typer.Option(help="onnx, or a target's name (`edgepep targets`).")] = "onnx",
    out: Annotated[Optional[Path], typer.Option(help="File or folder; else one in the run directory.")] = None,  # noqa: UP045
    training: Annotated[bool, typer.Option("--training", help="Write the training step too, for a device.")] = False,
    steps: Annotated[Optional[int], typer.Option(help="And one graph of so many steps; of --training.")] = None,  # noqa: UP045
    kit: Annotated[Optional[str], typer.Option(help="Pack the training step with a kit, such as web.")] = None,  # noqa: UP045
    rule: Rule = None,
    option: Annotated[Optional[list[str]], typer.Option(help="Of the target, as NAME=VALUE: opset=20.")] = None,  # noqa: UP045
    data_dir: DataDir = None,
) -> None:
    """Write a run's network in another form, run what was written, and compare the two on real samples."""
    from edgepep import checkpoint, datasets
    from edgepep import export as exporting

    if ((training or kit) and format != "onnx") or (steps is not None and not (training or kit)):
        raise EdgepepError("--training and --kit write ONNX, and --steps is of them; leave out --format, or --steps.")
    read = checkpoint.read(run, rule)
    if kit:
        print(_packed(read, kit, out or run / kit, steps, data_dir))
        return
    if training:
        print(_learns_on_a_device(read, out or run / "training", steps, data_dir))
        return
    target = exporting.choose(format, read.network)
    data = datasets.load(read.recipe.dataset, False, data_dir)
    if len(data) < SAMPLES:
        data = datasets.load(read.recipe.dataset, True, data_dir)
    path = out or run / f"{read.recipe.name}{exporting.suffix(target)}"
    given = exporting.read_options(target, option or [])
    if "rule" in exporting.options(target):
        given["rule"] = read.under(rule or given.get("rule"))
        if "rates" in exporting.options(target):
            given["rates"] = read.recipe.settings(rule or read.rule).rates if given["rule"] else None
    elif rule is not None and ":" not in rule:
        raise EdgepepError(f"--rule {rule}: {target} writes no training step; a target that does is c.")
    parity = exporting.save(read.network, path, target, data.take(slice(0, SAMPLES))[0], **given)
    print(f"{path} · {exporting.size(path) / 1000:.0f} kB · {target}")
    print(f"the file against torch on {parity.samples} samples of {data.name}: {parity}")
    if not read.learner.asks_the_network:
        print(f"the file answers in one pass; {read.rule} is evaluated otherwise, so their accuracies differ.")


def _learns_on_a_device(read: Run, out: Path, steps: int | None, data_dir: Path | None) -> str:
    from edgepep import datasets, learning_files
    from edgepep.learning_graph import Settings

    own = read.recipe.settings(read.rule)
    settings = Settings(own.momentum, own.weight_decay, own.rates)
    samples = datasets.load(read.recipe.dataset, True, data_dir).take(slice(0, SAMPLES))
    agreement = learning_files.save(read.learner, settings, own.learning_rate, out, samples, steps)
    sizes = [f"{path} · {path.stat().st_size / 1000:.0f} kB" for path in sorted(out.iterdir())]
    return "\n".join([*sizes, f"the training step against torch on {read.recipe.dataset}: {agreement}"])


def _packed(read: Run, name: str, out: Path, steps: int | None, data_dir: Path | None) -> str:
    from edgepep import datasets, kits
    from edgepep.learning_files import VERSION

    recipe, own = read.recipe, read.recipe.settings(read.rule)
    about: dict[str, object] = {"version": VERSION, "recipe": recipe.name, "rule": read.rule}
    about |= {"learning_rate": own.learning_rate, "without": own.without or []}
    kit = kits.choose(name, recipe.name, datasets.info(recipe.dataset))
    lines = _learns_on_a_device(read, out / kits.MODEL, steps, data_dir)
    train, test = (datasets.load(recipe.dataset, part, data_dir) for part in (True, False))
    kits.pack(kit, out, about, train.without(own.without or ()), test)
    return f"{lines}\nthe kit {name} is in {out}; its README.md says how to run it."
