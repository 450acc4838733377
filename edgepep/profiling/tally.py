"""Counts that grow while a network runs: the products that its synapses form, and the zeros in its answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from edgepep.errors import EdgepepError
from edgepep.local import effective_weight, input_gradient, respond
from edgepep.network import Layer, Network
from edgepep.neurons import Spiking
from edgepep.synapses import Quantiser
from edgepep.time_axis import EachStep

_FUNCTIONS = ("relu", "relu_", "sigmoid", "sigmoid_")


@dataclass
class Zeros:
    """Elements of answers, and how many of them are zero."""

    zeros: int = 0
    elements: int = 0

    def add(self, zeros: int, elements: int) -> None:
        """Add those of some more answers."""
        self.zeros += zeros
        self.elements += elements

    @property
    def sparsity(self) -> float | None:
        """Share of zeros; None if there are no elements."""
        return self.zeros / self.elements if self.elements else None

    @property
    def rate(self) -> float | None:
        """Share of the others; None if there are no elements."""
        return (self.elements - self.zeros) / self.elements if self.elements else None


@dataclass
class Tally:
    """Counts of one layer so far, over all samples and time steps."""

    name: str
    synapses: nn.Module
    dense: int = 0
    macs: int = 0
    acs: int = 0
    executed: int = 0
    steps: int = 1
    answers: Zeros = field(default_factory=Zeros)
    spikes: Zeros = field(default_factory=Zeros)
    reach: tuple[Tensor, Tensor] | None = None

    def see(self, pre: Tensor) -> None:
        """Count what the synapses were given, [time, batch, ...].

        Raises:
            EdgepepError: if their operations are not known.

        """
        if self.reach is None:
            self.reach = _reach(self.name, self.synapses, pre[0, :1])
        every, nonzero = self.reach
        times = len(pre) if pre.stride(0) == 0 else 1  # a constant current is looked at once
        pre = pre[:1] if times > 1 else pre
        products = int(every.sum()) * len(pre) * pre.shape[1]
        effective = ((pre != 0).sum(1).cpu() * nonzero).flatten(1).sum(1)
        spiking = ((pre == 0) | (pre.abs() == 1)).flatten(1).all(1).cpu()
        self.dense += times * products
        self.executed += products
        self.acs += times * int(effective[spiking].sum())
        self.macs += times * int(effective[~spiking].sum())


def _reach(name: str, synapses: nn.Module, pre: Tensor) -> tuple[Tensor, Tensor]:
    """For each element of an input [1, ...], the products that it enters: with any weight, with one that is not zero.

    It is the gradient of the sum of all answers in that element, had all such weights the value 1.
    """
    weight = effective_weight(synapses)
    if weight is None:
        kind = type(synapses).__name__
        raise EdgepepError(
            f"layer {name}: the operations of {kind} are not known; those of Linear, Conv1d and Conv2d are."
        )
    ones = torch.ones(pre.shape, dtype=torch.float64)
    binary = (weight != 0).to("cpu", torch.float64)
    answers = torch.ones_like(respond(synapses, ones, binary))
    every, nonzero = (input_gradient(synapses, ones, answers, w) for w in (torch.ones_like(binary), binary))
    return every[0].round().long(), nonzero[0].round().long()


class Watch:
    """Sees the answers of activations and the inputs of recurrent weights while a network runs layer by layer."""

    def __init__(self, network: Network) -> None:
        self.tallies: dict[nn.Module, Tally] = {}
        """By layer, then by the recurrent weights among its neurons, in order."""
        self.answers, self.spikes = Zeros(), Zeros()
        self.answered: list[tuple[nn.Module, int, int, int]] = []
        for layer in network.chain:
            self.tallies[layer] = Tally(layer.name, layer.synapses)
            for module in layer.neurons.modules():
                recurrent = getattr(module, "recurrent", None)
                if isinstance(recurrent, nn.Module) and effective_weight(recurrent) is not None:
                    self.tallies[recurrent] = Tally(f"{layer.name}.recurrent", recurrent)

    def hear(self, module: nn.Module, given: tuple[Tensor, ...]) -> None:
        """Count what recurrent weights are given at one time step."""
        self.tallies[module].see(given[0].unsqueeze(0))

    def answer(self, module: nn.Module, _: object, answer: Tensor) -> None:
        """Remember what an activation answered, until its layer has run."""
        self.answered.append((module, int((answer == 0).sum()), answer.numel(), len(answer)))

    def take(self, layer: Layer, pre: Tensor, batch: int) -> None:
        """Count a layer that has just run, whose synapses were given [batch, ...] or [time, batch, ...]."""
        tally, own = self.tallies[layer], set(layer.neurons.modules())
        if next(layer.synapses.parameters(), None) is not None:
            tally.see(pre if layer.over_time else pre.unsqueeze(0))
        for counts_at in (tally, *(self.tallies[m] for m in own if m in self.tallies)):
            counts_at.steps = len(pre) if layer.over_time else 1
        for module, zeros, elements, length in self.answered:
            # what knows nothing of time is applied once to what is the same at every step
            once = layer.over_time and length == batch and not isinstance(module, (Spiking, EachStep))
            times = len(pre) if once else 1
            kept = [self.answers, *([tally.answers] if module in own else [])]
            if isinstance(module, Spiking):
                kept += [self.spikes, tally.spikes]
            for counts in kept:
                counts.add(times * zeros, times * elements)
        self.answered.clear()


@contextmanager
def watched(network: Network) -> Iterator[Watch]:
    """Watch a network that runs in evaluation mode, over all of time at once; then put all back as it was."""
    watch, window = Watch(network), network.window
    training = {m: m.training for m in network.modules()}
    compiled = [m for m in network.modules() if isinstance(m, Spiking) and m.compiled]
    try:
        with ExitStack() as hooks:
            for module in _activations(network):
                hooks.callback(module.register_forward_hook(watch.answer).remove)
            for module in [m for m in watch.tallies if not isinstance(m, Layer)]:
                hooks.callback(module.register_forward_pre_hook(watch.hear).remove)
            network.eval()
            network.window = None
            for population in compiled:
                population.compiled = False  # what is compiled calls no one
            yield watch
    finally:
        network.window = window
        for module, was in training.items():
            module.training = was
        for population in compiled:
            population.compiled = True


def _activations(network: Network) -> list[nn.Module]:
    """Modules whose answers count: not the ReLU within an activation quantiser, whose layer has its own."""
    whole = [m for m in network.modules() if isinstance(m, Quantiser) or (isinstance(m, EachStep) and _counts(m))]
    within = {inner for m in whole for inner in m.modules() if inner is not m}
    return [m for m in network.modules() if m not in within and _counts(m)]


def _counts(module: nn.Module) -> bool:
    """Whether a module is a ReLU, a sigmoid or a spiking population; or is torch.fx's, and ends in such a function."""
    if isinstance(module, EachStep):
        return _counts(module.module)
    if isinstance(module, fx.GraphModule):
        last = next(reversed(module.graph.nodes)).args[0]
        called = isinstance(last, fx.Node) and last.op in ("call_function", "call_method")
        return called and str(getattr(last.target, "__name__", last.target)) in _FUNCTIONS
    return isinstance(module, (nn.ReLU, nn.Sigmoid, Spiking))
