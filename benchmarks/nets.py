"""Networks as a user of torch writes them, and random data to step on."""

import copy
from collections.abc import Iterator
from itertools import cycle, pairwise

import torch
from torch import Tensor, nn

from edgepep import Network, convert

POOL = 4096  # samples gone through in turn: one batch again and again is soon fitted, and its updates become denormal
Batches = Iterator[tuple[Tensor, Tensor]]


def mlp(sizes: list[int]) -> nn.Sequential:
    """Fully connected, ReLU, no biases."""
    modules: list[nn.Module] = []
    for i, o in pairwise(sizes):
        modules += [nn.Linear(i, o, bias=False), nn.ReLU(inplace=True)]
    return nn.Sequential(*modules[:-1])


def one_conv(channels: int, side: int) -> nn.Sequential:
    """The PEPITA paper's: 32 kernels of 5 x 5, max-pooling, a readout."""
    features = 32 * ((side - 4) // 2) ** 2
    first = nn.Conv2d(channels, 32, 5, bias=False)
    return nn.Sequential(
        first, nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(features, 10, bias=False)
    )


def three_conv(channels: int = 3, side: int = 32) -> nn.Sequential:
    """Three convolutions of 3 x 3 with 32, 64 and 64 kernels, each pooled, and a readout."""
    modules: list[nn.Module] = []
    for i, o in pairwise((channels, 32, 64, 64)):
        modules += [nn.Conv2d(i, o, 3, padding=1, bias=False), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
    return nn.Sequential(*modules, nn.Flatten(), nn.Linear(64 * (side // 8) ** 2, 10, bias=False))


def network_of(net: nn.Module, x: Tensor) -> Network:
    """Return the same network for edgepep, with copies of the same weights."""
    return convert(copy.deepcopy(net), x)


class Pool:
    """Random samples in batches; each user goes through them from the beginning."""

    def __init__(self, shape: tuple[int, ...], batch: int, samples: int = POOL) -> None:
        self.x, self.y = torch.rand(samples, *shape), torch.randint(10, (samples,))
        self.batch = batch

    def batches(self) -> Batches:
        """Without end."""
        return cycle(zip(self.x.split(self.batch), self.y.split(self.batch), strict=True))
