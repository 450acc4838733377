"""One training step of fully connected networks: PEPITA and MEMPEPITA beside backprop and beside the floor.

python -m benchmarks.step [--threads 1 all]
"""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from benchmarks.__main__ import main
from benchmarks.nets import Pool, mlp
from benchmarks.rounds import Case, Goal
from benchmarks.steps import autograd, compiled, in_backward, naive, products, rule, sample_by_sample, those_that_run
from edgepep.rules.backprop import Backprop
from edgepep.rules.mempepita import Mempepita
from edgepep.rules.pepita import Pepita

BASE, FLOOR = "backprop, autograd + SGD", "bare matrix products of pepita"
SHALLOW, DEEP, WIDE = [784, 1024, 10], [784, 1024, 1024, 1024, 1024, 10], [3072, 1024, 10]
LIMITS = {(*SHALLOW, 64): 0.95, (*SHALLOW, 1): 0.30, (*DEEP, 64): 0.85, (*WIDE, 64): 1.0}


def cases(quick: bool) -> Iterator[Case]:
    """Three networks, by batches and one sample at a time."""
    for sizes in (SHALLOW,) if quick else (SHALLOW, DEEP, WIDE):
        for batch in (64, 1):
            with ExitStack() as within:
                yield beside(sizes, batch, quick, within)


def beside(sizes: list[int], batch: int, quick: bool, within: ExitStack) -> Case:
    """One network; a sample at a time edgepep's way is to defer updates, which the stack ends."""
    net, pool = mlp(sizes), Pool((sizes[0],), batch)
    peers = {} if quick else {"backprop, torch.compile": partial(compiled, net, pool)}
    runs, absent = those_that_run(peers)
    absent |= {"backprop, torch.compile": "compiling takes long; left out of --quick"} if quick else {}
    candidates = {
        BASE: autograd(net, pool),
        "backprop, optimizer in backward": in_backward(net, pool),
        **runs,
        "backprop, edgepep": rule(Backprop, net, pool),
        "pepita": rule(Pepita, net, pool),
        "mempepita": rule(Mempepita, net, pool),
        "pepita, naive": naive(net, pool),
        FLOOR: products(sizes, batch),
    }
    ours = "pepita"
    if batch == 1:
        ours = "pepita, deferring"
        candidates[ours] = rule(Pepita, net, pool, within=within)
    if sizes == SHALLOW:
        candidates["pepita, sample by sample in NumPy"] = sample_by_sample(net, pool)
    goals = [Goal(ours, BASE, LIMITS[(*sizes, batch)])] if (*sizes, batch) in LIMITS else []
    if batch == 64:
        goals += [Goal("mempepita", BASE, 1.4)] + ([Goal("pepita", FLOOR, 1.2)] if sizes != DEEP else [])
    return Case(f"{'-'.join(map(str, sizes))}, batch {batch}", candidates, BASE, tuple(goals), absent=absent)


if __name__ == "__main__":
    sys.exit(main(["step", *sys.argv[1:]]))
