"""Quantised training against Brevitas: one quantisation a step and two products, for Brevitas' two whole forwards.

    python -m benchmarks.quantized [--threads 1 all]

Ratios are taken within rounds of one run; above 1 is slower than the base.
"""

import copy
import sys
from collections.abc import Callable, Iterator

import torch
from brevitas.nn import QuantConv2d, QuantIdentity, QuantLinear, QuantReLU
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.__main__ import main
from benchmarks.rounds import Case, Run
from edgepep import InPlaceSGD, Network, convert
from edgepep.fakequant import quantised_weight, quick
from edgepep.quantisers import weights
from edgepep.rules.backprop import Backprop
from edgepep.rules.pepita import Pepita

RATE, MOMENTUM = 0.01, 0.9


def dense(bits: int | None, **scales: bool) -> nn.Sequential:
    """784-1024-10."""
    if bits is None:
        return nn.Sequential(nn.Linear(784, 1024, bias=False), nn.ReLU(), nn.Linear(1024, 10, bias=False))
    own = weights(bits, **scales)
    first, last = QuantLinear(784, 1024, bias=False, **own), QuantLinear(1024, 10, bias=False, **own)
    return nn.Sequential(QuantIdentity(bit_width=8), first, QuantReLU(bit_width=8), last)


def convolutional(bits: int | None, **scales: bool) -> nn.Sequential:
    """Two convolutions of 16 and 32 channels on 3 x 16 x 16, and a readout."""
    if bits is None:
        first, second = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.Conv2d(16, 32, 3, padding=1, bias=False)
        tail = [nn.Flatten(), nn.Linear(8192, 10, bias=False)]
        return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), *tail)
    own = weights(bits, **scales)
    first = QuantConv2d(3, 16, 3, padding=1, bias=False, **own)
    second = QuantConv2d(16, 32, 3, padding=1, bias=False, **own)
    tail = [nn.Flatten(), QuantLinear(8192, 10, bias=False, **own)]
    return nn.Sequential(
        QuantIdentity(bit_width=8), first, QuantReLU(bit_width=8), second, QuantReLU(bit_width=8), *tail
    )


def calibrated(net: nn.Module, x: Tensor) -> nn.Module:
    for _ in range(3):
        net(x)
    return net.eval()


@torch.no_grad()
def quantisation(net: nn.Module) -> tuple[Run, Run]:
    """All weights quantised: by Brevitas in both passes, and here once."""
    layers = [m for m in net.modules() if hasattr(m, "weight_quant")]

    @torch.no_grad()
    def theirs() -> None:
        for _ in range(2):
            for layer in layers:
                layer.quant_weight()

    @torch.no_grad()
    def ours() -> None:
        for layer in layers:
            quantised_weight(layer)  # in evaluation mode, so nothing is kept

    return theirs, ours


def forwards(net: nn.Module, network: Network, x: Tensor) -> tuple[Run, Run]:
    """Two passes: of Brevitas' module, and of the network, whose weights change in between the steps."""
    synapses = [layer.synapses for layer in network.chain]

    @torch.no_grad()
    def theirs() -> None:
        net(x)
        net(x)

    @torch.no_grad()
    def ours() -> None:
        for layer in synapses:
            layer.weight.add_(0.0)  # what the step before would have done
        network(x)
        network(x)

    return theirs, ours


def synapses_alone(net: nn.Module, network: Network, x: Tensor) -> tuple[Run, Run]:
    """Two answers of all synapses, without what lies between them."""
    with torch.no_grad():
        given = [(a.pre, layer.synapses) for a, layer in zip(network.stream(x), network.chain, strict=True)]

    @torch.no_grad()
    def theirs() -> None:
        for _ in range(2):
            for pre, layer in given:
                layer(pre)

    @torch.no_grad()
    def ours() -> None:
        for _, layer in given:
            layer.weight.add_(0.0)
        for _ in range(2):
            for pre, layer in given:
                quick(layer)(pre)

    return theirs, ours


def straight_through(net: nn.Module, x: Tensor, y: Tensor) -> Run:
    """A step of backpropagation as users of Brevitas take it: scales frozen after calibration, autograd, SGD."""
    net = copy.deepcopy(net)
    optimizer = torch.optim.SGD([m.weight for m in net.modules() if hasattr(m, "weight")], RATE, MOMENTUM)

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(net(x), y).backward()
        optimizer.step()

    return step


def by_rule(kind: type, net: nn.Module, x: Tensor, y: Tensor) -> Run:
    network = convert(copy.deepcopy(net), x).train()
    rule = kind(network, x)
    InPlaceSGD(network, RATE, MOMENTUM)
    return lambda: rule(x, y)


def compare(name: str, make: Callable[..., nn.Sequential], x: Tensor, **scales: bool) -> Iterator[Case]:
    torch.manual_seed(0)
    net, y = calibrated(make(8, **scales), x), torch.randint(10, (len(x),))
    plain = make(None)
    network = convert(copy.deepcopy(net), x).train()
    pairs = {
        "weights alone, Brevitas twice against once": quantisation(net),
        "synapses, two passes": synapses_alone(net, network, x),
        "whole network, two passes": forwards(net, network, x),
    }
    title = f"{name}, batch {len(x)}"
    for what, (theirs, ours) in pairs.items():
        yield Case(f"{title}: {what}", {"Brevitas": theirs, "edgepep": ours}, "edgepep", rounds=11)
    steps = {
        "Brevitas, autograd + SGD": straight_through(net, x, y),
        "edgepep backprop, Brevitas' gradients": by_rule(Backprop, net, x, y),
        "edgepep pepita, int8": by_rule(Pepita, net, x, y),
        "edgepep pepita, plain": by_rule(Pepita, plain, x, y),
    }
    yield Case(f"{title}: training step", steps, "edgepep pepita, int8", rounds=11)


def cases(quick: bool) -> Iterator[Case]:
    """Dense networks with scales per tensor and per channel, and a convolutional one."""
    for batch in (1,) if quick else (64, 1):
        yield from compare("784-1024-10", dense, torch.rand(batch, 784))
    if quick:
        return
    yield from compare("784-1024-10 per channel", dense, torch.rand(64, 784), per_channel=True)
    for batch in (64, 1):
        yield from compare("conv 3-16-32-10", convolutional, torch.rand(batch, 3, 16, 16))


if __name__ == "__main__":
    sys.exit(main(["quantized", *sys.argv[1:]]))
