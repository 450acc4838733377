"""`edgepep profile --activity`: a forward pass on test data, counted, as text, as records and as a table."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from edgepep import datasets
from edgepep.errors import EdgepepError
from edgepep.network import Network
from edgepep.profiling.sparsity import LayerWorkload, Workload, workload
from edgepep.profiling.subject import Subject
from edgepep.synapses import Quantiser, calibrate

SAMPLES = 1000
"""Test samples to count on, where nothing else is asked for."""
HEAD = ("layer", "dense", "effective MACs", "effective ACs", "sparsity", "spike rate")
_WIDTHS = (14, 15, 15, 10, 11)


@dataclass(frozen=True)
class ForwardPass:
    """A network's forward pass, and what it was counted on."""

    counted: Workload
    title: str
    notes: str


def forward_pass(chosen: Subject, samples: int | None = None, data_dir: Path | None = None) -> ForwardPass:
    """Count on a recipe's test data: the trained network of a run, else the recipe's own with its initial weights.

    Args:
        chosen: a recipe or a run.
        samples: the first so many of the test set; all, if it has fewer.
        data_dir: where the data are.

    Raises:
        EdgepepError: for samples below 1, or a factory's module, which has no data.
        DataError: if the data are missing.

    """
    if chosen.recipe is None:
        raise EdgepepError(
            "--activity needs a recipe or a run, which name their data; a factory's module has none. In Python: "
            "edgepep.profiling.workload(network, x)."
        )
    samples = SAMPLES if samples is None else samples
    if samples < 1:
        raise EdgepepError(f"--samples is {samples}; it must be at least 1.")
    test = datasets.load(chosen.recipe.dataset, False, data_dir)
    network = chosen.run.network if chosen.run else _initial(chosen, data_dir)
    counted = workload(network, test.take(slice(0, samples))[0])
    weights = f"trained by {chosen.run.rule}" if chosen.run else "initial"
    title = (
        f"One forward pass of {chosen.name}, {weights} weights: synaptic operations of one sample, on average over "
        f"{counted.samples:,} test samples of {test.name}"
        + (f", all {counted.steps} time steps together." if counted.steps > 1 else ".")
    )
    return ForwardPass(counted, title, _notes(chosen, counted))


def _initial(chosen: Subject, data_dir: Path | None) -> Network:
    """The recipe's network under its own rule, activation quantisers calibrated as before training."""
    recipe = chosen.recipe
    assert recipe is not None
    network = recipe.under(recipe.rule).build()
    if any(isinstance(m, Quantiser) for m in network.modules()):
        data = datasets.load(recipe.dataset, True, data_dir)
        calibrate(network, (x for x, *_ in islice(data.shuffled(chosen.batch, 0, 0), 20)))
    return network


def _notes(chosen: Subject, counted: Workload) -> str:
    said = (
        "By NeuroBench's definitions: dense counts every weight times input but padding and biases, effective skips "
        "zeros, an AC has an input of -1, 0 and 1 only; sparsity is the share of zeros in what ReLUs, sigmoids and "
        "spiking neurons answer, a spike rate is a neuron's and a time step's."
    )
    for layer in counted.layers:
        if layer.executed < layer.dense:
            said += (
                f" The input of layer {layer.name} is the same at all {counted.steps} time steps: NeuroBench counts it "
                f"at each, edgepep multiplies it once, {layer.executed:,} dense operations."
            )
        if layer.steps < counted.steps:
            said += f" Layer {layer.name} reads what was decoded from time, once rather than at every step."
    if chosen.run and not chosen.run.learner.asks_the_network:
        said += f" {chosen.run.rule} is evaluated otherwise than by one pass."
    return said


def rows(done: ForwardPass) -> Iterator[tuple[str, ...]]:
    """Cells under HEAD: a row a layer, then the total."""
    for name, part in _parts(done.counted):
        operations = f"{part.dense:,}", _average(part.macs), _average(part.acs)
        sparsity = "-" if part.sparsity is None else f"{100 * part.sparsity:.2f} %"
        yield name, *operations, sparsity, "-" if part.spike_rate is None else f"{part.spike_rate:.4f}"


def text(done: ForwardPass) -> str:
    """A page that fits a terminal 80 wide."""
    lines = [*textwrap.wrap(done.title, 80), ""]
    for name, *cells in (HEAD, *rows(done)):
        row = "".join(f"{cell:>{width}}" for cell, width in zip(cells, _WIDTHS, strict=True))
        room = 80 - sum(_WIDTHS)
        lines += [f"{name:<{room}}{row}"] if len(name) < room else [name, " " * room + row]
    return "\n".join([*lines, "", *textwrap.wrap(done.notes, 80)])


def figures(done: ForwardPass) -> Iterator[tuple[str, str, float, str]]:
    """Every figure as (quantity, part, value, unit); operations are one sample's."""
    yield "samples counted", "total", done.counted.samples, "sample"
    yield "time steps", "total", done.counted.steps, "step"
    for name, part in _parts(done.counted):
        yield "dense operations of a sample", name, part.dense, "operation"
        yield "executed dense operations of a sample", name, part.executed, "operation"
        yield "effective macs of a sample", name, part.macs, "MAC"
        yield "effective acs of a sample", name, part.acs, "AC"
        if part.sparsity is not None:
            yield "activation sparsity", name, part.sparsity, "ratio"
        if part.spike_rate is not None:
            yield "spike rate", name, part.spike_rate, "spike a neuron and step"


def _parts(counted: Workload) -> Iterator[tuple[str, Workload | LayerWorkload]]:
    yield from ((layer.name, layer) for layer in counted.layers)
    yield "total", counted


def _average(n: float) -> str:
    """At most 14 characters, with one decimal while they fit."""
    return f"{n:,.1f}" if n < 1e9 else f"{n:,.0f}" if n < 1e10 else f"{n / 1e9:,.4f} G"
