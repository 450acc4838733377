"""The command line: each command is one call of the library and a print; torch is imported inside them only."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from edgepep.errors import EdgepepError
from edgepep.export_command import export
from edgepep.reproduction.command import reproduce, results
from edgepep.reproduction.sweep import sweep
from edgepep.train_command import train
from edgepep.voice import one_voice, said

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
Rule = Annotated[Optional[str], typer.Option(help="The run's rule, where it is code of your own: package.module:Name.")]  # noqa: UP045
Device = Annotated[str, typer.Option(help="cpu, cuda or mps.")]


app.command()(train)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    device: Device = "cpu",
    data_dir: DataDir = None,
    rule: Rule = None,
) -> None:
    """Test accuracy of a run's network."""
    from edgepep import checkpoint, datasets, training
    from edgepep.outside import names_in

    training.check_device(device)
    read = checkpoint.read(run, rule)
    if rule is not None and not names_in(rule) <= read.parts:
        raise EdgepepError(
            f"--rule {rule}: the run was trained by {read.rule}, and answers as that does; leave it out."
        )
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
    executed: Annotated[bool, typer.Option("--executed", help="What exports in C did on emulated boards.")] = False,
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
        table(catalogue.HEAD, catalogue.rows(), catalogue.SHORT, "`edgepep rules NAME` shows all.")
        print(f"\n{catalogue.legend()}")


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


def main() -> None:
    """Run the command line; what the user can mend is one line and exit code 2.

    Training that a signal has stopped, its state kept, is one line and 128 + the signal's number: 143 for SIGTERM, 130
    for Ctrl-C, 138 for SIGUSR1 on Linux. Anything else that Ctrl-C stops is 130 too. Of several processes, one prints.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")
    try:
        with one_voice() as alone:
            code = app(standalone_mode=alone)
        raise SystemExit(code)
    except EdgepepError as error:
        print(said(error), file=sys.stderr)
        raise SystemExit(error.code) from None
    except KeyboardInterrupt:
        print("edgepep: stopped.", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        raise SystemExit(0) from None
