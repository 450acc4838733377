"""A spiking network, 784-1000-10 of leaky neurons with a linear readout, beside snnTorch's own step loop.

python -m benchmarks.spiking [--threads 1 all]

Forward: no gradients on either side. Training: PEPITA with an in-place updater, beside backpropagation through time
of snnTorch's loop with torch.optim.SGD; momentum 0.9 for both. Memory: the most that a step holds beyond what is
there before it, from the allocator's events.
"""

import copy
import sys
from collections.abc import Iterator

import snntorch as snn
import torch
from snntorch import spikegen
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.__main__ import main
from benchmarks.rounds import Case, Run
from edgepep import Frames, InPlaceSGD, Layer, Leaky, Network, Poisson, Rate, Repeat
from edgepep.profiling.measure import peak_bytes
from edgepep.rules.mempepita import Mempepita
from edgepep.rules.pepita import Pepita

SIZES = (784, 1000, 10)
BETA = 0.9
RATE, MOMENTUM = 0.01, 0.9


class Loop(nn.Module):
    """The network as snnTorch's tutorials write it: a loop over time in the forward."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        inputs, hidden, classes = SIZES
        self.fc1, self.lif1 = nn.Linear(inputs, hidden, bias=False), snn.Leaky(BETA)
        self.fc2, self.steps = nn.Linear(hidden, classes, bias=False), steps

    def forward(self, x: Tensor) -> Tensor:
        """Mean readout, for a constant current [batch, inputs] or frames [time, batch, inputs]."""
        potential, answers = self.lif1.init_leaky(), []
        for t in range(self.steps):
            spikes, potential = self.lif1(self.fc1(x[t] if x.dim() == 3 else x), potential)
            answers.append(self.fc2(spikes))
        return torch.stack(answers).mean(0)


def ours(loop: Loop, code: nn.Module, window: int | str | None = "auto") -> Network:
    """The same network, with copies of the same weights."""
    hidden = Layer(copy.deepcopy(loop.fc1), Leaky(BETA), None, Rate())
    return Network([hidden, Layer(copy.deepcopy(loop.fc2), None, Rate())], code, window=window)


def forward(steps: int, batch: int) -> Case:
    """Inference, with the same frames of spikes, or the same constant current, for both."""
    loop, frames = Loop(steps), (torch.rand(steps, batch, SIZES[0]) < 0.2).float()
    constant = frames[0].clone()
    by_sample = frames.transpose(0, 1)

    def run(module: nn.Module, x: Tensor) -> Run:
        return torch.no_grad()(lambda: module(x))

    candidates = {
        "snnTorch, loop": run(loop, frames),
        "edgepep": run(ours(loop, Frames()), by_sample),
        "edgepep, windows of 1": run(ours(loop, Frames(), 1), by_sample),
        "edgepep, over all of time": run(ours(loop, Frames(), None), by_sample),
        "edgepep, compiled scan": run(_compiled(ours(loop, Frames())), by_sample),
        "snnTorch, constant current": run(loop, constant),
        "edgepep, constant current": run(ours(loop, Repeat(steps)), constant),
    }
    torch.testing.assert_close(candidates["edgepep"](), candidates["snnTorch, loop"](), atol=0.02, rtol=0)
    return Case(f"forward, T {steps}, batch {batch}", candidates, "snnTorch, loop")


def _compiled(network: Network) -> Network:
    for module in network.modules():
        if isinstance(module, Leaky):
            module.compiled = True
    return network


def bptt(steps: int, x: Tensor, y: Tensor, poisson: bool) -> Run:
    """What a user would run instead."""
    loop = Loop(steps)
    optimizer = torch.optim.SGD(loop.parameters(), RATE, MOMENTUM)

    def step() -> None:
        given = spikegen.rate(x, num_steps=steps) if poisson else x
        cross_entropy(loop(given), y).backward()
        optimizer.step()
        optimizer.zero_grad()  # not before: gradients are the step's memory, and not what is held before it

    return step


def rule(kind: type, steps: int, x: Tensor, y: Tensor, poisson: bool, window: int | str | None = "auto") -> Run:
    """One of edgepep's rules, each layer's update applied in place."""
    network = ours(Loop(steps), Poisson(steps) if poisson else Repeat(steps), window)
    made = kind(network, x)
    InPlaceSGD(network, RATE, MOMENTUM)
    return lambda: made(x, y)


def batch_of(size: int) -> tuple[Tensor, Tensor]:
    """Random data, sparse as MNIST's images."""
    return torch.rand(size, SIZES[0]) * (torch.rand(size, SIZES[0]) < 0.2), torch.randint(SIZES[-1], (size,))


def training(steps: int, poisson: bool) -> Case:
    """One step of training."""
    x, y = batch_of(64)
    candidates = {
        "snnTorch, BPTT": bptt(steps, x, y, poisson),
        "pepita": rule(Pepita, steps, x, y, poisson),
        "pepita, windows of 1": rule(Pepita, steps, x, y, poisson, 1),
        "mempepita": rule(Mempepita, steps, x, y, poisson),
    }
    code = "Poisson" if poisson else "constant current"
    return Case(f"training, {code}, T {steps}, batch 64", candidates, "snnTorch, BPTT", rounds=11)


def memory() -> str:
    """Peak of one step, in MiB."""
    x, y = batch_of(64)
    peaks = {"snnTorch, BPTT, T 100": peak_bytes(bptt(100, x, y, False))}
    for steps in (25, 100, 200):
        for window in ("auto", 1):
            name = f"pepita, T {steps}" + (", windows of 1" if window == 1 else "")
            peaks[name] = peak_bytes(rule(Pepita, steps, x, y, False, window))
    base = peaks["snnTorch, BPTT, T 100"]
    rows = [f"  {name:<28} {peak / 2**20:8.2f} MiB   {peak / base:6.3f}" for name, peak in peaks.items()]
    return "\n".join(["memory of a step, constant current, batch 64", *rows])


def cases(quick: bool) -> Iterator[Case | str]:
    """Memory, inference and training; of --quick one each of the last two, over a few steps of time."""
    if quick:
        yield forward(5, 1)
        yield training(5, poisson=False)
        return
    yield memory()
    for batch in (64, 1):
        yield forward(25, batch)
    for steps in (25, 100):
        yield training(steps, poisson=False)
    yield training(25, poisson=True)


if __name__ == "__main__":
    sys.exit(main(["spiking", *sys.argv[1:]]))
