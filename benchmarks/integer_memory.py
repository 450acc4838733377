"""Memory of a PEPITA step: integer weights beside a float shadow (Brevitas) and plain floats.

python -m benchmarks.integer_memory
"""

from itertools import pairwise

import torch
from torch import nn

from edgepep import InPlaceSGD, Layer, Network
from edgepep.integer_weights import with_integer_weights
from edgepep.profiling.measure import peak_bytes
from edgepep.profiling.observe import observe
from edgepep.rules.pepita import Pepita
from edgepep.synapses import linear

SHADOW = "float shadow, int8 (Brevitas)"
FORMS = {
    "plain, fp32": (None, 0.0),
    "plain, fp32, momentum": (None, 0.9),
    SHADOW: ("shadow", 0.0),
    f"{SHADOW}, momentum": ("shadow", 0.9),
    "integer, int8": ("integer", 0.0),
    "integer, int8, 8-bit momentum": ("integer", 0.9),
}


def network(sizes: tuple[int, ...], form: str | None) -> Network:
    synapses = [linear(i, o, bias=False, bits=8 if form == "shadow" else None) for i, o in pairwise(sizes)]
    if form == "integer":
        synapses = [with_integer_weights(own, 8) for own in synapses]
    return Network([*(Layer(own, nn.ReLU()) for own in synapses[:-1]), Layer(synapses[-1])])


def measured(sizes: tuple[int, ...], batch: int, form: str | None, momentum: float) -> tuple[int, int]:
    """Bytes held between steps (weights, feedback, optimizer), and at most beside them in a step."""
    torch.manual_seed(0)
    made, x, y = network(sizes, form), torch.rand(batch, sizes[0]), torch.randint(sizes[-1], (batch,))
    rule = Pepita(made, x)
    optimizer = InPlaceSGD(made, 1e-3, momentum)
    held = observe(rule, x, y, optimizer).memory
    fixed = sum(held[kind] for kind in ("parameters", "feedback F", "optimizer state"))
    return fixed, peak_bytes(lambda: rule(x, y))


def bytes_held(sizes: tuple[int, ...], batch: int) -> dict[str, int]:
    """Bytes at the peak of a step, all told, of each form."""
    return {name: sum(measured(sizes, batch, *how)) for name, how in FORMS.items()}


def main() -> None:
    for sizes, batch in (((784, 1024, 10), 64), ((784, 1024, 10), 1), ((784, 1024, 1024, 1024, 10), 64)):
        print(f"{'-'.join(map(str, sizes))}, batch {batch}; kB: between steps, at most in a step, together, ratio")
        rows = {name: measured(sizes, batch, *how) for name, how in FORMS.items()}
        for name, (fixed, peak) in rows.items():
            ratio = (fixed + peak) / sum(rows["plain, fp32"])
            print(f"  {name:<42}{fixed / 1e3:>10.0f}{peak / 1e3:>10.0f}{(fixed + peak) / 1e3:>10.0f}{ratio:>8.2f}")


if __name__ == "__main__":
    main()
