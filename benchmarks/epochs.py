"""A whole epoch of training on real data, from the stored tensors to the last update, evaluation left out.

python -m benchmarks.epochs [--threads 1 all]

Needs MNIST and CIFAR-10 on disk (EDGEPEP_DATA). The authors' figures are of their NumPy code on one thread of
another CPU: for scale. Theirs of the convolution is the kernels' update alone.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.__main__ import main
from benchmarks.nets import mlp, one_conv
from benchmarks.rounds import Case, Goal, Run
from benchmarks.steps import MOMENTUM, RATE
from edgepep import datasets, load, training
from edgepep.datasets import Data
from edgepep.errors import DataError

BASE = "backprop, autograd + SGD"


def cases(quick: bool) -> Iterator[Case | str]:
    """MNIST fully connected, and CIFAR-10 convolutional; of --quick 640 samples."""
    hidden, relu, readout = mlp([784, 1024, 10])
    dense = nn.Sequential(nn.Flatten(), hidden, relu, nn.Dropout(0.1), readout)
    yield from beside("mnist-fc", dense, 4.0, 1 / 40, quick)
    yield from beside("cifar10-conv", one_conv(3, 32), 12.0, 1 / 30, quick)


def beside(name: str, net: nn.Module, minutes: float, limit: float, quick: bool) -> Iterator[Case | str]:
    """One recipe."""
    recipe = load(name)
    try:
        data = datasets.load(recipe.dataset, True)
    except DataError as error:
        yield f"{name}, one epoch, is left out: {error}"
        return
    if quick:
        data = replace(data, inputs=data.inputs[:640], labels=data.labels[:640])
    batch = recipe.training.batch_size
    candidates: dict[str, Run | float] = {
        BASE: autograd(net, data, batch),
        "backprop, autograd + SGD, DataLoader": loader(net, data, batch),
        "backprop, edgepep": epoch_of(name, "backprop", data),
        "pepita": epoch_of(name, "pepita", data),
    }
    goals = []
    if not quick:
        theirs = f"the authors, {minutes:g} min"
        candidates[theirs] = minutes * 60e3
        goals.append(Goal("pepita", theirs, limit))
    yield Case(f"{name}, one epoch", candidates, BASE, tuple(goals), rounds=3)


def epoch_of(recipe: str, rule: str, data: Data) -> Run:
    """As `edgepep train` does it."""
    asked = load(recipe)
    made, optimizer, _ = training.prepare(asked, rule, 0, data, "cpu")
    epochs = training.fit(made, data, optimizer, epochs=10_000, batch_size=asked.training.batch_size)
    return lambda: next(epochs)


def autograd(net: nn.Module, data: Data, batch: int) -> Run:
    """Of torch alone, but for the batches, which are edgepep's."""
    optimizer = torch.optim.SGD(net.parameters(), RATE, MOMENTUM)

    def epoch() -> None:
        for x, y, _ in data.shuffled(batch, 0, 0):
            optimizer.zero_grad()
            cross_entropy(net(x), y).backward()
            optimizer.step()

    return epoch


def loader(net: nn.Module, data: Data, batch: int) -> Run:
    """With torch's way to make batches, of floats that are already tensors, which is the best case for it."""
    x, y = data.take(slice(None))
    batches = DataLoader(TensorDataset(x, y), batch, shuffle=True)
    optimizer = torch.optim.SGD(net.parameters(), RATE, MOMENTUM)

    def epoch() -> None:
        for x, y in batches:
            optimizer.zero_grad()
            cross_entropy(net(x), y).backward()
            optimizer.step()

    return epoch


if __name__ == "__main__":
    sys.exit(main(["epochs", *sys.argv[1:]]))
