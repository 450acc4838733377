"""Ways to take a training step: what a user would run instead, edgepep's rules, other libraries, and the floor.

SGD with momentum for all. Each way trains its own copy of the network on its own batches.
"""

import copy
import warnings
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout
from io import StringIO
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.nets import Pool, network_of
from benchmarks.rounds import Run
from edgepep import InPlaceSGD
from edgepep.rule import output_error

RATE, MOMENTUM = 0.01, 0.9
Maker = Callable[[], Run]


def autograd(net: nn.Module, pool: Pool, momentum: float = MOMENTUM, rate: float = RATE) -> Run:
    """What a user would run instead."""
    net, batches = copy.deepcopy(net), pool.batches()
    optimizer = torch.optim.SGD(net.parameters(), rate, momentum)

    def step() -> None:
        x, y = next(batches)
        cross_entropy(net(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()  # not before: gradients are the step's memory, and not what is held before it

    return step


def channels_last(net: nn.Module, pool: Pool) -> Run:
    """The same, with images and kernels laid out as CPUs like them, the data once before training."""
    laid = Pool.__new__(Pool)
    laid.x, laid.y, laid.batch = pool.x.to(memory_format=torch.channels_last), pool.y, pool.batch
    return autograd(copy.deepcopy(net).to(memory_format=torch.channels_last), laid)


def in_backward(net: nn.Module, pool: Pool) -> Run:
    """Autograd with each parameter's optimizer called as soon as its gradient is there, which is then let go."""
    net, batches = copy.deepcopy(net), pool.batches()
    optimizers = {p: torch.optim.SGD([p], RATE, MOMENTUM) for p in net.parameters()}

    def update(parameter: nn.Parameter) -> None:
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in optimizers:
        parameter.register_post_accumulate_grad_hook(update)

    def step() -> None:
        x, y = next(batches)
        cross_entropy(net(x), y).backward()

    return step


def compiled(net: nn.Module, pool: Pool) -> Run:
    """Autograd over a network that torch.compile has compiled; the first step is taken here."""
    torch._dynamo.reset()
    net, batches = copy.deepcopy(net), pool.batches()
    optimizer = torch.optim.SGD(net.parameters(), RATE, MOMENTUM)
    loss_of = torch.compile(lambda x, y: cross_entropy(net(x), y), dynamic=False)

    def step() -> None:
        x, y = next(batches)
        optimizer.zero_grad()
        loss_of(x, y).backward()
        optimizer.step()

    step()
    return step


def rule(
    kind: type,
    net: nn.Module,
    pool: Pool,
    momentum: float = MOMENTUM,
    rate: float = RATE,
    within: ExitStack | None = None,
    **options: Any,
) -> Run:
    """One of edgepep's rules, each layer's update applied in place, or `within` a stack deferred until it is left."""
    batches = pool.batches()
    network = network_of(net, next(batches)[0])
    for layer in network.chain:
        layer.channels_last = True
    made = kind(network, next(batches)[0], **options)
    optimizer = InPlaceSGD(network, rate, momentum)
    if within is not None:
        within.enter_context(optimizer.deferring(made))
    return lambda: made(*next(batches))


def naive(net: nn.Module, pool: Pool) -> Run:
    """PEPITA as one would first write it: two full passes, gradients, then the optimizer."""
    net, batches = copy.deepcopy(net), pool.batches()
    linear = [m for m in net.children() if isinstance(m, nn.Linear)]
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


def sample_by_sample(net: nn.Module, pool: Pool) -> Run:
    """PEPITA as the authors' NumPy code is described: 64-bit floats, one sample at a time through both passes."""
    linear = [m.weight.detach().double().numpy() for m in net.children() if isinstance(m, nn.Linear)]
    batches, velocity = pool.batches(), [w * 0 for w in linear]
    feedback = np.random.default_rng(0).uniform(-0.005, 0.005, (linear[0].shape[1], len(linear[-1])))

    def activities(x: Any) -> list[Any]:
        kept = [x]
        for w in linear[:-1]:
            kept.append((w @ kept[-1]).clip(0))
        return [*kept, linear[-1] @ kept[-1]]

    def change(x: Any, label: int) -> list[Any]:
        h = activities(x)
        error = np.exp(h[-1] - h[-1].max())
        error /= error.sum()
        error[label] -= 1
        g = activities(x + feedback @ error)
        deltas = [*(a - b for a, b in zip(h[1:-1], g[1:-1], strict=True)), error]
        return [d[:, None] * pre[None] for d, pre in zip(deltas, g, strict=False)]

    def step() -> None:
        x, y = next(batches)
        sums = [w * 0 for w in linear]
        for sample, label in zip(x.double().numpy(), y.tolist(), strict=True):
            for total, one in zip(sums, change(sample, label), strict=True):
                total += one
        for w, v, total in zip(linear, velocity, sums, strict=True):
            v *= MOMENTUM
            v += RATE / len(x) * total
            w -= v

    return step


def products(sizes: list[int], batch: int) -> Run:
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


def biotorch(mode: str, net: nn.Module, pool: Pool, rate: float = RATE) -> Run:
    """FA or DFA by biotorch, with its own way to take a step."""
    from biotorch.module.biomodule import BioModule

    plain = nn.Sequential(*(nn.ReLU() if isinstance(m, nn.ReLU) else copy.deepcopy(m) for m in net.children()))
    batches = pool.batches()
    with redirect_stdout(StringIO()):  # it says what it converts
        made = BioModule(plain, mode, output_dim=10)
    optimizer = torch.optim.SGD([p for p in made.parameters() if p.requires_grad], rate, MOMENTUM)
    more = {"loss_function": cross_entropy} if mode == "dfa" else {}

    def step() -> None:
        x, y = next(batches)
        optimizer.zero_grad()
        cross_entropy(made(x, targets=y, **more), y).backward()
        optimizer.step()

    step()
    return step


def those_that_run(makers: dict[str, Maker]) -> tuple[dict[str, Run], dict[str, str]]:
    """Make what can be made here; the names of the others, with what stood in the way."""
    runs: dict[str, Run] = {}
    absent: dict[str, str] = {}
    for name, make in makers.items():
        try:
            with warnings.catch_warnings():  # of deprecations, which are the other library's affair
                warnings.simplefilter("ignore")
                runs[name] = make()
        except Exception as error:  # whatever another library, or a compiler, does not like
            absent[name] = f"{type(error).__name__}: {(str(error).splitlines() or ['?'])[0]}"
    return runs, absent
