"""How far learning in onnxruntime parts from learning in torch: weights after 100 steps, accuracy after some epochs.

python -m benchmarks.ort_parity [--epochs 10] [--recipe mnist-fc]

torch with one thread and torch with two part as well: sums are taken in another order. That is the measure. With the
products, the softmax and the tanh of onnxruntime, and everything else its own, torch gives onnxruntime's weights to the
last bit: the graph is the step, and what is left between the two is the order of sums alone.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.ort_kernels import OrtKernels
from edgepep import datasets, learning_files, load
from edgepep.datasets import Data
from edgepep.learning_graph import Settings, TrainingStep
from edgepep.models import Recipe
from edgepep.onnx_files import Runner
from edgepep.training import prepare

State = dict[str, Tensor]


def steps_of(recipe: Recipe, data: Data, folder: Path) -> tuple[TrainingStep, Runner, float]:
    """The step in torch, and as a file."""
    rule, *_ = prepare(recipe, "pepita", 0, data, "cpu")
    own = recipe.settings("pepita")
    settings = Settings(own.momentum, own.weight_decay, own.rates)
    learning_files.save(rule, settings, own.learning_rate, folder, data.take(slice(0, 640)))
    return (
        TrainingStep(rule, settings, data.take(slice(0, 2))),
        Runner(str(folder / "training_step.onnx"), threads=1),
        own.learning_rate,
    )


def by_torch(step: TrainingStep, state: State, x: Tensor, y: Tensor, rate: float) -> State:
    with torch.no_grad():
        _, _, *new = step(x, y, torch.tensor(rate), *state.values())
    return dict(zip(state, new, strict=True))


def by_onnxruntime(run: Runner, state: State, x: Tensor, y: Tensor, rate: float) -> State:
    _, _, *new = run({"x": x, "target": y, "learning_rate": torch.tensor(rate), **state})
    return dict(zip(state, new, strict=True))


def apart(one: State, other: State) -> str:
    """Largest difference of a weight, and the share of codes that differ."""
    names = [name for name in one if name.startswith("network") and one[name].dtype != torch.int32]
    codes = [name for name in names if one[name].dtype == torch.int8]
    if codes:
        differ = sum(int((one[n] != other[n]).sum()) for n in codes)
        total = sum(one[n].numel() for n in codes)
        return f"{differ} of {total} codes ({100 * differ / total:.4f} %)"
    off = max(float((one[n].double() - other[n].double()).abs().max()) for n in names)
    total = sum(float((one[n].double() - other[n].double()).square().sum()) for n in names) ** 0.5
    return f"{off:.2g}, norm {total:.2g}"


def hundred(recipe: Recipe, data: Data, folder: Path) -> str:
    step, run, rate = steps_of(recipe, data, folder)
    one, two, other, same, exact = (dict(step.state) for _ in range(5))
    kernels = OrtKernels()
    plain = all(value.dtype != torch.int8 for value in exact.values())
    finer = TrainingStep(step.rule, step.updates.settings, data.take(slice(0, 2)))
    finer.rule.double()
    exact = {name: value.double() if value.is_floating_point() else value for name, value in exact.items()}
    for x, y in list(data.in_order(64))[:100]:
        torch.set_num_threads(1)
        one = by_torch(step, one, x, y, rate)
        other = by_onnxruntime(run, other, x, y, rate)
        if plain:
            with kernels:
                same = by_torch(step, same, x, y, rate)
        exact = by_torch(finer, exact, x.double(), y, rate) if plain else exact
        torch.set_num_threads(2)
        two = by_torch(step, two, x, y, rate)
    lines = [
        f"{recipe.name}, 100 steps of 64 samples, largest difference of a weight:",
        f"  onnxruntime against torch, one thread each       {apart(other, one)}",
        f"  torch with two threads against one               {apart(two, one)}",
    ]
    if plain:
        lines.append(f"  onnxruntime against torch with the same kernels  {apart(other, same)}")
        lines.append(f"  torch with one thread against 64-bit floats      {apart(one, exact)}")
        lines.append(f"  onnxruntime against 64-bit floats                {apart(other, exact)}")
    return "\n".join(lines)


def epochs(recipe: Recipe, data: Data, test: Data, count: int, folder: Path) -> str:
    step, run, rate = steps_of(recipe, data, folder)
    answer = Runner(str(folder / "inference.onnx"))
    ours, theirs = dict(step.state), dict(step.state)
    for epoch in range(1, count + 1):
        for x, y, _ in data.shuffled(64, 0, epoch):
            ours, theirs = by_torch(step, ours, x, y, rate), by_onnxruntime(run, theirs, x, y, rate)
    x, y = test.take(slice(None))
    right = [
        100 * float((answer({"x": x, **_read(answer, s)})[0].argmax(1) == y).double().mean()) for s in (ours, theirs)
    ]
    return (
        f"{recipe.name}, {count} epochs: torch {right[0]:.2f} %, onnxruntime {right[1]:.2f} % of {len(y)} test samples"
    )


def _read(answer: Runner, state: State) -> State:
    return {name: state[name] for name in answer.inputs if name != "x"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--recipe", default="mnist-fc")
    given = parser.parse_args()
    recipe = load(given.recipe)
    data, test = datasets.load(recipe.dataset, True), datasets.load(recipe.dataset, False)
    with tempfile.TemporaryDirectory() as folder:
        codes = load("mnist-fc-int4-integer")
        alone = codes.but(name="4-bit codes alone", training={"momentum": 0.0, "learning_rate": 0.1, "rates": {}})
        for chosen in (recipe, alone, codes.but(name="4-bit codes, velocity of 8 bits")):
            print(hundred(chosen, data, Path(folder)), flush=True)
        torch.set_num_threads(1)
        print(epochs(recipe, data, test, given.epochs, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
