"""The command line: each command is one call of the library and a print; torch is imported inside them only."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from edgepep.errors import EdgepepError
from edgepep.export_command import export
from edgepep.reproduction.command import reproduce, results
from edgepep.reproduction.sweep import sweep

if TYPE_CHECKING:
    from edgepep.diagnostics import Diagnostics

app = typer.Typer(
    name="edgepep",
    help="Train networks without a backward pass, count what it costs, and take them to the edge.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # rich's help takes longer to import than all the rest
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# typer reads these annotations when a command runs, so they are written out in full for Python 3.10.
DataDir = Annotated[Optional[Path], typer.Option(help="Where the data are; else $EDGEPEP_DATA, else the cache.")]  # noqa: UP045
Rule = Annotated[Optional[str], typer.Option(help="A rule's name (`edgepep rules`); else the recipe's.")]  # noqa: UP045
Device = Annotated[str, typer.Option(help="cpu, cuda or mps.")]


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name (`edgepep models`), or a path to a .toml file.")],
    rule: Rule = None,
    epochs: Annotated[Optional[int], typer.Option(help="Else the recipe's.")] = None,  # noqa: UP045
    seed: Annotated[int, typer.Option(help="Of weights, feedback, dropout and the order of samples.")] = 0,
    device: Device = "cpu",
    data_dir: DataDir = None,
    out: Annotated[Optional[Path], typer.Option(help="Run directory to make; else one under runs/.")] = None,  # noqa: UP045
    dataset: Annotated[Optional[str], typer.Option(help="Else the recipe's.")] = None,  # noqa: UP045
    weight_bits: Annotated[Optional[int], typer.Option(help="Quantize weights, 1 to 8; else the recipe's.")] = None,  # noqa: UP045
    activation_bits: Annotated[Optional[int], typer.Option(help="Quantize activities, 2 to 8.")] = None,  # noqa: UP045
    freeze: Annotated[Optional[list[str]], typer.Option(help="Names of layers that rest, such as 0 or '[01]'.")] = None,  # noqa: UP045
    head: Annotated[Optional[str], typer.Option(help="Another rule for the last layers: NAME, or NAME:LAYERS.")] = None,  # noqa: UP045
    without: Annotated[Optional[list[int]], typer.Option(help="A class that training does not show.")] = None,  # noqa: UP045
    diagnose: Annotated[int, typer.Option(help="Measure the rule's credit every so many steps; 0 for never.")] = 0,
) -> None:
    """Train a recipe and keep the run in a directory."""
    from edgepep import checkpoint, models, training
    from edgepep.tables import head_of
    from edgepep.terminal import Report

    chosen = models.load(recipe)
    if dataset:
        chosen = chosen.but(dataset=dataset)
    bits = {"weight_bits": weight_bits, "activation_bits": activation_bits}
    if any(value is not None for value in bits.values()):
        chosen = chosen.but(quantized={key: value for key, value in bits.items() if value is not None})
    if freeze:
        chosen = chosen.but(network={"frozen": [*chosen.network.frozen, *freeze]})
    if head:
        chosen = chosen.but(head=head_of(head))
    if without:
        chosen = chosen.but(training={"without": without})
    watcher = _diagnostics(diagnose)
    rule = rule or chosen.rule
    out = out or checkpoint.free(Path("runs") / f"{chosen.name}-{rule}-seed{seed}")
    total = epochs if epochs is not None else chosen.settings(rule).epochs
    print(f"{chosen.name} · rule {rule} · data {chosen.dataset} · {total} epochs · seed {seed} · {out}")
    with Report(total) as report:
        for epoch in training.train(
            chosen,
            rule=rule,
            epochs=epochs,
            seed=seed,
            device=device,
            data_dir=data_dir,
            out=out,
            watch=report.step,
            before_step=watcher,
        ):
            report.epoch(epoch)
    if watcher and watcher.history:
        step, found = watcher.history[-1]
        print(f"credit at step {step} (angles in degrees):\n{found}")
    published = chosen.reported(rule)
    if published:
        spread = f" ± {published.std}" if published.std is not None else ""
        print(
            f"published after {chosen.settings(rule).epochs} epochs: {published.accuracy}{spread} % ({published.place})"
        )
    print(f"kept in {out}")


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    device: Device = "cpu",
    data_dir: DataDir = None,
) -> None:
    """Test accuracy of a run's network."""
    from edgepep import checkpoint, datasets, training

    training.check_device(device)
    read = checkpoint.read(run)
    test = datasets.load(read.recipe.dataset, False, data_dir).to(device)
    accuracy = training.evaluate(read.learner.to(device), test)
    print(f"{read.recipe.name} · rule {read.rule} · {accuracy:.2f} % of {len(test)} test samples of {test.name}")


@app.command()
def profile(
    rule: Annotated[str, typer.Option(help="Beside backprop: one rule, several with commas, or all.")] = "pepita",
    model: Annotated[
        str, typer.Option(help="A recipe, a .toml or .onnx file, a run, or package.module:factory.")
    ] = "mnist-fc",
    input: Annotated[Optional[str], typer.Option(help="One input of a factory's module, such as 3x32x32.")] = None,  # noqa: UP045
    batch: Annotated[Optional[int], typer.Option(help="Samples a step in torch; else the recipe's.")] = None,  # noqa: UP045
    device_batch: Annotated[int, typer.Option(help="Samples a step on a device.")] = 1,
    precision: Annotated[str, typer.Option(help="Of values on a device: fp32, fp16 or int8.")] = "fp32",
    seeded: Annotated[bool, typer.Option("--seeded", help="Fixed feedback from its seed, not stored.")] = False,
    measure: Annotated[bool, typer.Option("--measure", help="Also run the steps: peak memory and time.")] = False,
    per_layer: Annotated[bool, typer.Option("--per-layer", help="MACs of each layer too.")] = False,
    data: Annotated[bool, typer.Option("--data", help="Use real samples, and count zeros and spikes.")] = False,
    activity: Annotated[bool, typer.Option("--activity", help="A pass on test data: MACs, ACs, sparsity.")] = False,
    samples: Annotated[Optional[int], typer.Option(help="Of the test data, for --activity; else 1000.")] = None,  # noqa: UP045
    energy: Annotated[Optional[str], typer.Option(help="Estimate it: horowitz45, or a .toml table.")] = None,  # noqa: UP045
    device: Annotated[Optional[str], typer.Option(help="Will it fit this part? Such as stm32f746.")] = None,  # noqa: UP045
    ram: Annotated[Optional[str], typer.Option(help="Will it fit a part with this RAM? Such as 256K.")] = None,  # noqa: UP045
    flash: Annotated[Optional[str], typer.Option(help="And this flash? Such as 1M.")] = None,  # noqa: UP045
    accounting: Annotated[Optional[str], typer.Option(help="paper or exact: Pau & Aymone's cells instead.")] = None,  # noqa: UP045
    format: Annotated[str, typer.Option(help="text, json, csv, markdown or html.")] = "text",
    plot: Annotated[Optional[Path], typer.Option(help="Draw it: a .png, .svg or .pdf file.")] = None,  # noqa: UP045
    data_dir: DataDir = None,
) -> None:
    """What a training step costs, counted from the step itself, in torch and on a device; no data are needed."""
    given = dict(locals())
    from edgepep.profiling.command import Asked, page

    print(page(Asked(**given)))


app.command()(export)
app.command()(reproduce)
app.command()(results)
app.command()(sweep)


@app.command()
def models() -> None:
    """The recipes that come with edgepep."""
    from edgepep import models as recipes
    from edgepep.terminal import table

    rows = [(name, recipe.dataset, recipe.description) for name in recipes.names() for recipe in [recipes.load(name)]]
    table(("recipe", "data", "what it is"), rows)


@app.command()
def rules(
    name: Annotated[Optional[str], typer.Argument(help="One rule, in full: equation, options, source.")] = None,  # noqa: UP045
    markdown: Annotated[bool, typer.Option("--markdown", help="The table as a page of documentation.")] = False,
) -> None:
    """The learning rules, and what each asks of the machine that runs it."""
    from edgepep import catalogue
    from edgepep.terminal import table

    if name:
        print(catalogue.describe(name))
    elif markdown:
        print(catalogue.markdown(), end="")
    else:
        table(catalogue.HEAD, catalogue.rows(), catalogue.SHORT)


@app.command()
def targets() -> None:
    """The forms in which a network can be written."""
    from edgepep import export as exporting
    from edgepep.terminal import table

    table(("target", "what it is"), [(name, exporting.describe(name)) for name in exporting.names()])


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Show the version and stop.")] = False) -> None:
    if version:
        from edgepep import __version__

        print(f"edgepep {__version__}")
        raise typer.Exit


def _diagnostics(every: int) -> Diagnostics | None:
    if every < 0:
        raise EdgepepError(f"--diagnose is {every}; it must be at least 0.")
    if not every:
        return None
    from edgepep.diagnostics import Diagnostics

    return Diagnostics(every)


def main() -> None:
    """Run the command line; what the user can mend is one line and exit code 2, Ctrl-C is 130."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")
    try:
        app()
    except EdgepepError as error:
        print(f"edgepep: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("edgepep: stopped.", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        raise SystemExit(0) from None
