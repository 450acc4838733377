"""The spiking network of benchmarks.spiking in other libraries, where they are installed: spikingjelly and norse.

python -m benchmarks.spiking_peers [--threads 1 all]

Their neurons reset at another moment than snnTorch's, so their spikes differ: the work is the same, not the answer.
"""

import sys
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.__main__ import main
from benchmarks.rounds import Case, Run
from benchmarks.spiking import BETA, MOMENTUM, RATE, Loop, batch_of, ours, rule
from benchmarks.steps import those_that_run
from edgepep import Frames
from edgepep.rules.pepita import Pepita

BASE = "snnTorch, loop"
Peer = Callable[[Tensor], Tensor]


def cases(quick: bool) -> Iterator[Case]:
    """A forward pass on frames, and a step of training on a constant current."""
    steps = 5 if quick else 25
    for batch in (1,) if quick else (64, 1):
        yield forward(steps, batch)
    if not quick:
        yield training(steps)


def forward(steps: int, batch: int) -> Case:
    loop, frames = Loop(steps), (torch.rand(steps, batch, 784) < 0.2).float()
    network, by_sample = ours(loop, Frames()), frames.transpose(0, 1)

    def made(make: Callable[[Loop], Peer]) -> Run:
        peer = make(loop)
        peer(frames)
        return torch.no_grad()(partial(peer, frames))

    runs, absent = those_that_run({name: partial(made, make) for name, make in PEERS.items()})
    candidates = {
        BASE: torch.no_grad()(partial(loop, frames)),
        "edgepep": torch.no_grad()(partial(network, by_sample)),
        **runs,
    }
    return Case(f"forward, T {steps}, batch {batch}", candidates, BASE, absent=absent)


def training(steps: int) -> Case:
    """Backpropagation through time in each library, beside PEPITA."""
    x, y = batch_of(64)
    frames = x.expand(steps, *x.shape)

    def bptt(make: Callable[[Loop], Peer]) -> Run:
        loop = Loop(steps)
        peer = make(loop)
        optimizer = torch.optim.SGD(loop.parameters(), RATE, MOMENTUM)

        def step() -> None:
            optimizer.zero_grad()
            cross_entropy(peer(frames), y).backward()
            optimizer.step()

        step()
        return step

    runs, absent = those_that_run({f"{name}, BPTT": partial(bptt, make) for name, make in PEERS.items()})
    candidates = {f"{BASE}, BPTT": bptt(lambda loop: loop), "edgepep, pepita": rule(Pepita, steps, x, y, False), **runs}
    return Case(f"training, T {steps}, batch 64", candidates, f"{BASE}, BPTT", absent=absent, rounds=11)


def spikingjelly(loop: Loop) -> Peer:
    """All of time in one call of each layer."""
    from spikingjelly.activation_based import functional, neuron

    lif = neuron.LIFNode(1 / (1 - BETA), decay_input=False, v_reset=None, step_mode="m")

    def run(x: Tensor) -> Tensor:
        functional.reset_net(lif)
        return loop.fc2(lif(loop.fc1(x))).mean(0)

    return run


def norse(loop: Loop) -> Peer:
    """A loop over time, as in norse's own examples."""
    import norse.torch as norse

    cell = norse.LIFBoxCell(norse.LIFBoxParameters(tau_mem_inv=torch.tensor(1000 * (1 - BETA))))

    def run(x: Tensor) -> Tensor:
        state, answers = None, []
        for frame in x:
            spikes, state = cell(loop.fc1(frame), state)
            answers.append(loop.fc2(spikes))
        return torch.stack(answers).mean(0)

    return run


PEERS: dict[str, Callable[[Loop], Peer]] = {"spikingjelly, multi-step": spikingjelly, "norse, loop": norse}


if __name__ == "__main__":
    sys.exit(main(["spiking_peers", *sys.argv[1:]]))
