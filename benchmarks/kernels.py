"""The parts that a step is made of: torch's own beside what edgepep calls in its place.

python -m benchmarks.kernels [--threads 1 all]
"""

import sys
from collections.abc import Iterator

import torch
from torch import nn

from benchmarks.__main__ import main
from benchmarks.rounds import Case
from edgepep.local import Product, accumulate_
from edgepep.pooling import pooled
from edgepep.products import multiplied


def cases(quick: bool) -> Iterator[Case]:
    """Products of a layer, the update of its velocity, and max-pooling, without a gradient."""
    torch.set_grad_enabled(False)
    try:
        for inputs in (784,) if quick else (784, 3072):
            x, delta, w = torch.rand(64, inputs), torch.rand(64, 1024), torch.rand(1024, inputs)
            own, other = torch.zeros_like(w), torch.zeros_like(w)
            yield Case(
                f"64 samples through {inputs}-1024",
                {"torch": lambda x=x, w=w: x @ w.t(), "edgepep": lambda x=x, w=w: multiplied(x, w)},
                "torch",
            )
            yield Case(
                f"their update of a velocity, {inputs}-1024",
                {
                    "torch": lambda x=x, d=delta, v=other: v.addmm_(d.t(), x, beta=0.9, alpha=0.01),
                    "edgepep": lambda x=x, d=delta, v=own: accumulate_(v, Product(d, x), 0.9, 0.01),
                },
                "torch",
            )
        pool, images = nn.MaxPool2d(2), torch.rand(8 if quick else 64, 32, 28, 28)
        yield Case(
            "max-pooling, 64 x 32 x 28 x 28",
            {"torch": lambda: pool(images), "edgepep": lambda: pooled(pool, images)},
            "torch",
        )
    finally:
        torch.set_grad_enabled(True)


if __name__ == "__main__":
    sys.exit(main(["kernels", *sys.argv[1:]]))
