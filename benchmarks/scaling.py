"""How a step's time and memory grow with batch, width, depth and time steps, for PEPITA and backprop.

python -m benchmarks.scaling [--threads N] [--rounds N] [--quick] [--out FILE] [--plots FOLDER]

Fully connected networks, 784-1024-10, 784-n-n-10 and 784-256 x n-10 at batch 64, beside torch's autograd and SGD with
momentum; spiking, 784-1000-10 at batch 64, beside backpropagation through time of snnTorch's loop. Memory: the most
that a step holds beyond what was held before it, weights and velocities. Exponents are fitted to the larger half of
the points, where overheads weigh little; that of PEPITA's arithmetic is fitted alike.
"""

import argparse
import gc
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from benchmarks import nets, spiking, stored
from benchmarks.rounds import Case, Run, timings
from benchmarks.steps import autograd, rule
from edgepep.profiling.measure import peak_bytes
from edgepep.rules.pepita import Pepita

DOCS = Path(__file__).resolve().parent.parent / "docs"
RATE = 1e-3  # random labels are not to be learned, and nothing is to diverge
PEPITA, BACKPROP = "pepita", "backprop"
Runs = dict[str, Run]


class Axis(NamedTuple):
    """What grows, through which values, and what runs at each; `work` is PEPITA's arithmetic."""

    name: str
    values: Sequence[int]
    runs: Callable[[int], Runs]
    work: Callable[[int], float]


def dense(sizes: list[int], batch: int) -> Runs:
    """He's initial weights, with which activities neither vanish nor grow through many layers."""
    net, pool = nets.mlp(sizes), nets.Pool((sizes[0],), batch, max(batch, 1024))
    for module in net:
        if isinstance(module, nn.Linear):
            nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
    return {BACKPROP: autograd(net, pool, rate=RATE), PEPITA: rule(Pepita, net, pool, rate=RATE)}


def over_time(steps: int) -> Runs:
    x, y = spiking.batch_of(64)
    return {
        BACKPROP: spiking.bptt(steps, x, y, poisson=False),
        PEPITA: spiking.rule(Pepita, steps, x, y, poisson=False),
    }


def by_width(width: int) -> list[int]:
    return [784, width, width, 10]


def by_depth(depth: int) -> list[int]:
    return [784, *[256] * depth, 10]


def products(sizes: list[int], batch: int) -> float:
    """Two passes and the updates, the second pass of the first layer being nearly free."""
    weights = [i * o for i, o in pairwise(sizes)]
    return batch * (3 * sum(weights) - weights[0])


def spiking_work(steps: int) -> float:
    """Its products, which the time steps of a constant current and of a rate share, and four operations a neuron."""
    inputs, hidden, classes = spiking.SIZES
    return 64.0 * hidden * (2 * inputs + 3 * classes + 2 * 4 * steps)


def axes(quick: bool) -> list[Axis]:
    """All four; of --quick three small values each."""
    shallow = [784, 1024, 10]
    found = [
        Axis("batch", [4**n for n in range(7)], lambda n: dense(shallow, n), lambda n: products(shallow, n)),
        Axis(
            "width", [2**n for n in range(6, 14)], lambda n: dense(by_width(n), 64), lambda n: products(by_width(n), 64)
        ),
        Axis("depth", [2**n for n in range(7)], lambda n: dense(by_depth(n), 64), lambda n: products(by_depth(n), 64)),
        Axis("time steps", (5, 10, 25, 50, 100, 200, 400), over_time, spiking_work),
    ]
    return [axis._replace(values=axis.values[:3]) for axis in found] if quick else found


def points(axis: Axis, rounds: int) -> Iterator[dict[str, Any]]:
    """Time and memory of both at each value."""
    for value in axis.values:
        torch.manual_seed(0)
        runs = axis.runs(value)
        found = timings(Case(f"{axis.name} {value}", runs, BACKPROP), rounds)
        for timing in found:
            peak = peak_bytes(runs[timing.candidate])
            yield {"axis": axis.name, "value": value, "work": axis.work(value), "peak_bytes": peak, **timing._asdict()}
        del runs
        gc.collect()


def exponent(values: Sequence[float], figures: Sequence[float]) -> float:
    """Slope of the larger half of some points, on logarithmic axes."""
    half = min(len(values) // 2, max(len(values) - 2, 0))
    x, y = ([math.log(max(n, 1e-9)) for n in numbers[half:]] for numbers in (values, figures))
    middle = sum(x) / len(x), sum(y) / len(y)
    over = sum((a - middle[0]) * (b - middle[1]) for a, b in zip(x, y, strict=True))
    return over / sum((a - middle[0]) ** 2 for a in x)


def exponents(results: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """By axis: those of each candidate's time and memory, and of the arithmetic."""
    found: dict[str, dict[str, float]] = {}
    for axis in dict.fromkeys(result["axis"] for result in results):
        of_axis = found[axis] = {}
        for name in (BACKPROP, PEPITA):
            own = [r for r in results if (r["axis"], r["candidate"]) == (axis, name)]
            values = [r["value"] for r in own]
            of_axis[f"{name}, time"] = exponent(values, [r["milliseconds"] for r in own])
            of_axis[f"{name}, memory"] = exponent(values, [r["peak_bytes"] for r in own])
        of_axis["arithmetic"] = exponent(values, [r["work"] for r in own])
    return found


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="a few small values, and nothing is kept but in --out")
    parser.add_argument("--out", type=Path, default=None, help="results/benchmarks/scaling.json")
    parser.add_argument("--plots", type=Path, default=None, help="docs/")
    given = parser.parse_args(argv)
    torch.set_num_threads(given.threads)
    run = stored.begun(given.rounds, given.quick, argv)
    run |= {"command": " ".join(["python -m benchmarks.scaling", *argv]), "threads": given.threads}
    for axis in axes(given.quick):
        for point in points(axis, 2 if given.quick else given.rounds):
            run["results"].append(point)
            said = f"{point['milliseconds']:10.3f} ms {point['ratio']:7.3f} {point['peak_bytes'] / 2**20:9.3f} MiB"
            print(f"{axis.name:<10} {point['value']:>5}  {point['candidate']:<8} {said}", flush=True)
    run["exponents"] = exponents(run["results"])
    for name, of_axis in run["exponents"].items():
        print(f"{name}: " + ", ".join(f"{what} n^{value:.2f}" for what, value in of_axis.items()))
    out = given.out or (None if given.quick else stored.FOLDER / "scaling.json")
    if out:
        stored.save(run, out)
    plots = given.plots or (None if given.quick else DOCS)
    if plots:
        from benchmarks.scaling_plot import save

        print("drawn in", *save(run, plots))
    return 0


if __name__ == "__main__":
    sys.exit(main())
