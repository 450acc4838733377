"""One training step of convolutional networks: PEPITA and MEMPEPITA beside backprop.

python -m benchmarks.conv [--threads 1 all]

The PEPITA paper's networks, and one of three convolutions, on random images. "channels last" is backprop on data and
kernels laid out as CPUs like them.
"""

import sys
from collections.abc import Iterator
from functools import partial

from torch import nn

from benchmarks.__main__ import main
from benchmarks.nets import Pool, one_conv, three_conv
from benchmarks.rounds import Case, Goal
from benchmarks.steps import autograd, channels_last, compiled, in_backward, rule, those_that_run
from edgepep.rules.backprop import Backprop
from edgepep.rules.mempepita import Mempepita
from edgepep.rules.pepita import Pepita

BASE = "backprop, autograd + SGD"


def cases(quick: bool) -> Iterator[Case]:
    """Images of MNIST's and CIFAR's shapes."""
    if quick:
        yield beside("conv 32 5x5, 28x28", one_conv(1, 28), (1, 28, 28), 8, quick)
        return
    for batch in (50, 1):
        yield beside("conv 32 5x5, 28x28", one_conv(1, 28), (1, 28, 28), batch, quick)
        yield beside("conv 32 5x5, 3x32x32", one_conv(3, 32), (3, 32, 32), batch, quick)
        yield beside("conv 32, 64, 64 3x3, 3x32x32", three_conv(), (3, 32, 32), batch, quick)


def beside(name: str, net: nn.Module, shape: tuple[int, ...], batch: int, quick: bool) -> Case:
    """One network; the update of kernels is divided as in the authors' code, with which random data don't diverge."""
    pool, own = Pool(shape, batch, 512), {"conv_reduction": "mean", "extra_batch_division": True}
    peers = {} if quick else {"backprop, torch.compile": partial(compiled, net, pool)}
    runs, absent = those_that_run(peers)
    candidates = {
        BASE: autograd(net, pool),
        "backprop, channels last": channels_last(net, pool),
        "backprop, optimizer in backward": in_backward(net, pool),
        **runs,
        "backprop, edgepep": rule(Backprop, net, pool),
        "pepita": rule(Pepita, net, pool, **own),
        "mempepita": rule(Mempepita, net, pool, **own),
    }
    goals = (Goal("pepita", BASE, 1.0), Goal("mempepita", BASE, 1.4)) if batch > 1 else ()
    return Case(f"{name}, batch {batch}", candidates, BASE, goals, absent=absent)


if __name__ == "__main__":
    sys.exit(main(["conv", *sys.argv[1:]]))
