"""The data path: all batches of a shuffled epoch, beside the steps that they feed.

python -m benchmarks.batches [--threads 1 all]

Needs MNIST on disk (EDGEPEP_DATA); else random data of its shape are taken, which cost the same.
"""

import sys
from collections.abc import Iterator
from itertools import count

import torch
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.__main__ import main
from benchmarks.rounds import Case, Goal
from edgepep import datasets, load, training
from edgepep.datasets import Data
from edgepep.errors import DataError

BASE, LIMIT = "steps of pepita, batches at hand", 0.05
BATCH = 64


def cases(quick: bool) -> Iterator[Case]:
    """MNIST, fully connected; of --quick 640 samples."""
    data = mnist(640 if quick else 60_000)
    made, *_ = training.prepare(load("mnist-fc"), "pepita", 0, data, "cpu")
    at_hand = [(x, y) for x, y, _ in data.shuffled(BATCH, 0, 0)]
    inputs, labels = data.take(slice(None))
    theirs, epoch = DataLoader(TensorDataset(inputs, labels), BATCH, shuffle=True), count()

    def steps() -> None:
        for x, y in at_hand:
            made(x, y)

    candidates = {
        BASE: steps,
        "batches alone": lambda: [None for _ in data.shuffled(BATCH, 0, next(epoch))],
        "batches alone, DataLoader": lambda: [None for _ in theirs],
    }
    goals = (Goal("batches alone", BASE, LIMIT),)
    yield Case("mnist-fc, an epoch of shuffled batches", candidates, BASE, goals, rounds=5)


def mnist(samples: int) -> Data:
    """So many samples of MNIST, or random ones."""
    try:
        data = datasets.load("mnist", True)
    except DataError:
        inputs = torch.randint(256, (samples, 1, 28, 28), dtype=torch.uint8)
        data = Data("random", inputs, torch.randint(10, (samples,)), 10)
    return Data("mnist", data.inputs[:samples], data.labels[:samples], 10)


if __name__ == "__main__":
    sys.exit(main(["batches", *sys.argv[1:]]))
