"""One training step of edgepep's other rules, and of biotorch's where it is installed, beside backprop.

python -m benchmarks.rules [--threads 1 all]
"""

import sys
import warnings
from collections.abc import Iterator
from functools import partial

from benchmarks.__main__ import main
from benchmarks.nets import Pool, mlp
from benchmarks.rounds import Case, Goal
from benchmarks.steps import autograd, biotorch, rule, those_that_run
from edgepep.build import rule_class

BASE = "backprop, autograd + SGD"
RATE = 1e-5  # at which none of them diverges on random labels
LIMITS = {"dfa": 0.9, "drtp": 0.9, "feedback_alignment": 1.15, "usf": 1.15, "frsf": 1.15}
WITHOUT = ("brsf", "backprop", "frozen_hidden", "last_layer", "weight_mirror", "kolen_pollack")
NAMES = (*LIMITS, *WITHOUT)


def cases(quick: bool) -> Iterator[Case]:
    """A shallow and a deeper network; goals at batch 64."""
    warnings.filterwarnings("ignore", "Using a non-full backward hook", FutureWarning)  # biotorch does, in every step
    for sizes in ([784, 1024, 10],) if quick else ([784, 1024, 10], [784, 1024, 1024, 1024, 1024, 10]):
        for batch in (64,) if quick else (64, 1):
            net, pool = mlp(sizes), Pool((sizes[0],), batch)
            theirs = {f"{mode}, biotorch": partial(biotorch, mode, net, pool, RATE) for mode in ("fa", "dfa")}
            runs, absent = those_that_run(theirs)
            ours = {name: rule(rule_class(name), net, pool, rate=RATE) for name in NAMES}
            goals = tuple(Goal(name, BASE, limit) for name, limit in LIMITS.items() if batch == 64)
            candidates = {BASE: autograd(net, pool, rate=RATE), **ours, **runs}
            yield Case(f"{'-'.join(map(str, sizes))}, batch {batch}", candidates, BASE, goals, absent=absent)


if __name__ == "__main__":
    sys.exit(main(["rules", *sys.argv[1:]]))
