"""One training step: PEPITA and MEMPEPITA beside autograd backprop with torch.optim.SGD, momentum 0.9 for all.

python -m benchmarks.step [--threads N]
"""

import argparse
import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import cycle, pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.rounds import interleaved, table
from edgepep import InPlaceSGD, Layer, Network
from edgepep.rule import output_error
from edgepep.rules.backprop import Backprop
from edgepep.rules.mempepita import Mempepita
from edgepep.rules.pepita import Pepita

RATE, MOMENTUM = 0.01, 0.9
POOL = 4096  # samples gone through in turn: one batch again and again is soon fitted, and its updates become denormal
Batches = Iterator[tuple[Tensor, Tensor]]


def mlp(sizes: list[int]) -> nn.Sequential:
    modules: list[nn.Module] = []
    for i, o in pairwise(sizes):
        modules += [nn.Linear(i, o, bias=False), nn.ReLU()]
    return nn.Sequential(*modules[:-1])


def layers(net: nn.Sequential) -> Network:
    linear = [m for m in copy.deepcopy(net) if isinstance(m, nn.Linear)]
    hidden = [Layer(m, nn.ReLU(inplace=True)) for m in linear[:-1]]
    return Network([*hidden, Layer(linear[-1])])


def autograd(net: nn.Sequential, batches: Batches) -> Callable[[], None]:
    """What a user would run instead."""
    net = copy.deepcopy(net)
    optimizer = torch.optim.SGD(net.parameters(), RATE, MOMENTUM)

    def step() -> None:
        x, y = next(batches)
        optimizer.zero_grad()
        cross_entropy(net(x), y).backward()
        optimizer.step()

    return step


def naive(net: nn.Sequential, batches: Batches) -> Callable[[], None]:
    """PEPITA as one would first write it: two full passes, gradients, then the optimizer."""
    net = copy.deepcopy(net)
    linear = [m for m in net if isinstance(m, nn.Linear)]
    feedback = (torch.rand(linear[-1].out_features, linear[0].in_features) - 0.5) * 0.01
    optimizer = torch.optim.SGD(net.parameters(), RATE, MOMENTUM)

    def activities(x: Tensor) -> list[Tensor]:
        kept = [x]
        for m in linear[:-1]:
            kept.append(torch.relu(m(kept[-1])))
        return [*kept, linear[-1](kept[-1])]

    @torch.no_grad()
    def step() -> None:
        x, y = next(batches)
        h = activities(x)
        error = output_error(h[-1], y)
        g = activities(x - error @ feedback)
        for i, m in enumerate(linear):
            delta = error if i == len(linear) - 1 else h[i + 1] - g[i + 1]
            m.weight.grad = delta.t() @ g[i] / len(x)
        optimizer.step()

    return step


def rule(kind: type, net: nn.Sequential, batches: Batches, within: ExitStack | None = None) -> Callable[[], object]:
    """One of edgepep's rules, each layer's update applied in place."""
    network = layers(net)
    made = kind(network, next(batches)[0])
    optimizer = InPlaceSGD(network, RATE, MOMENTUM)
    if within is not None:
        within.enter_context(optimizer.deferring(made))
    return lambda: made(*next(batches))


def products(sizes: list[int], batch: int) -> Callable[[], None]:
    """The bare matrix products of a PEPITA step: the first pass, the second from the second layer on, the updates."""
    shapes = list(pairwise(sizes))
    weights = [torch.randn(o, i) for i, o in shapes]
    pres = [torch.randn(batch, i) for i, _ in shapes]
    deltas = [torch.randn(batch, o) for _, o in shapes]

    @torch.no_grad()
    def step() -> None:
        for w, pre in zip(weights, pres, strict=True):
            torch.mm(pre, w.t())
        for w, pre in list(zip(weights, pres, strict=True))[1:]:
            torch.mm(pre, w.t())
        for pre, delta in zip(pres, deltas, strict=True):
            torch.mm(delta.t(), pre)

    return step


def compare(sizes: list[int], batch: int) -> str:
    torch.manual_seed(0)
    net, x, y = mlp(sizes), torch.rand(POOL, sizes[0]), torch.randint(sizes[-1], (POOL,))

    def batches() -> Batches:
        return cycle(zip(x.split(batch), y.split(batch), strict=True))

    with ExitStack() as within:
        candidates = {
            "backprop, autograd + SGD": autograd(net, batches()),
            "backprop, optimizer in backward": rule(Backprop, net, batches()),
            "pepita": rule(Pepita, net, batches()),
            "mempepita": rule(Mempepita, net, batches()),
            "pepita, naive": naive(net, batches()),
            "bare matrix products of pepita": products(sizes, batch),
        }
        if batch == 1:
            candidates["pepita, deferring"] = rule(Pepita, net, batches(), within)
        timings = interleaved(candidates, "backprop, autograd + SGD")
    return table(
        f"{'-'.join(map(str, sizes))}, batch {batch}, {torch.get_num_threads()} threads: ms, ratio [10 %, 90 %]",
        timings,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    torch.set_num_threads(parser.parse_args().threads)
    for sizes in ([784, 1024, 10], [784, 1024, 1024, 1024, 1024, 10], [3072, 1024, 10]):
        for batch in (64, 1):
            print(compare(sizes, batch), flush=True)


if __name__ == "__main__":
    main()
