"""What a spiking network does over time, as pictures: spikes, potentials, rates, and accuracy against time steps.

Each function returns a matplotlib Figure that is the caller's: `figure.savefig("raster.png")`, or .svg, writes it. The
figures are readable in black and white, and need no display. Networks are left as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from edgepep.errors import EdgepepError
from edgepep.lineplots import accuracy_against
from edgepep.network import Network
from edgepep.neurons import Spiking

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RATE = "firing rate, spikes per neuron and time step"


class _Seen(NamedTuple):
    """A population in a pass; current and spikes are [time, batch, ...]."""

    layer: str
    population: Spiking
    current: Tensor
    spikes: Tensor


def raster(network: Network, x: Tensor, sample: int = 0) -> Figure:
    """Spikes over time, a mark each: a panel a layer, a row a neuron.

    Args:
        network: spiking.
        x: data [batch, ...].
        sample: the one of the batch that is drawn.

    Raises:
        EdgepepError: if no layer spikes, or there is no such sample.

    """
    x = _one(x, sample)
    found = [(seen.layer, seen.spikes[:, 0].flatten(1).cpu()) for seen in _spiking(network, x)]
    figure, panels = _panels(len(found), 2.4)
    for axes, (name, spikes) in zip(panels, found, strict=True):
        steps, neurons = spikes.nonzero(as_tuple=True)
        length = min(8.0, max(1.0, 115 / spikes.shape[1]))  # points: of a row, less a gap
        axes.scatter((steps + 1).numpy(), neurons.numpy(), s=length**2, marker="|", color="black", linewidths=1.4)
        axes.set(ylabel="neuron", ylim=(-1, spikes.shape[1]))
        axes.set_title(f"layer {name}: {len(steps)} spikes, {spikes.shape[1]} neurons", fontsize=10)
    _over_time(panels, len(spikes))
    return figure


def membranes(
    network: Network, x: Tensor, neurons: Sequence[int] = (0, 1, 2), layer: int | str = 0, sample: int = 0
) -> Figure:
    """Membrane potentials over time: a panel a neuron, with its threshold (dashed) and its spikes (triangles).

    A potential is that at the end of a step; where the reset has no delay, that is after the reset.

    Args:
        network: spiking.
        x: data [batch, ...].
        neurons: which, counted through all axes of the layer.
        layer: its number or its name.
        sample: the one of the batch that is drawn.

    Raises:
        EdgepepError: if that layer does not spike, or there is no such neuron or sample.

    """
    x = _one(x, sample)
    found = {seen.layer: seen for seen in _spiking(network, x)}
    name = network.chain[layer].name if isinstance(layer, int) and 0 <= layer < len(network.chain) else str(layer)
    if name not in found:
        raise EdgepepError(f"no layer called {name!r} has spiking neurons. There are: {', '.join(found)}.")
    seen = found[name]
    potentials, spikes = _potentials(seen).flatten(1).cpu(), seen.spikes[:, 0].flatten(1).cpu()
    thresholds = torch.as_tensor(seen.population.threshold).detach().cpu().expand(seen.spikes[0].shape).flatten()
    if not neurons or not all(0 <= n < potentials.shape[1] for n in neurons):
        raise EdgepepError(f"neurons are {list(neurons)}; name some from 0 to {potentials.shape[1] - 1}.")
    figure, panels = _panels(len(neurons), 1.8)
    for axes, n in zip(panels, neurons, strict=True):
        _draw_potential(axes, potentials[:, n], float(thresholds[n]), spikes[:, n])
        axes.set_title(f"layer {name}, neuron {n}", fontsize=10)
        axes.set_ylabel("potential (no unit)", fontsize=9)
    _over_time(panels, len(potentials), "time step (threshold dashed, triangles: spikes)")
    return figure


def rates(network: Network, x: Tensor, bins: int = 20) -> Figure:
    """Histograms of firing rates on a batch: a panel a layer, how many of its neurons fire how often.

    Args:
        network: spiking.
        x: data [batch, ...].
        bins: of a histogram, at least 1.

    Raises:
        EdgepepError: if no layer spikes, or there are no bins.

    """
    if bins < 1:
        raise EdgepepError(f"bins is {bins}; a histogram needs at least 1.")
    found = []
    for seen in _spiking(network, x):
        steps, batch = seen.spikes.shape[:2]
        found.append((seen.layer, (seen.spikes != 0).sum((0, 1)).flatten().cpu() / (steps * batch)))
        del seen
    figure, panels = _panels(len(found), 2.2)
    highest = max(float(rate.max()) for _, rate in found) or 1.0
    for axes, (name, rate) in zip(panels, found, strict=True):
        axes.hist(rate.numpy(), bins=bins, range=(0.0, highest), color="0.8", edgecolor="black", linewidth=0.7)
        axes.axvline(float(rate.mean()), color="black", linestyle="--", linewidth=1.2)
        silent = int((rate == 0).sum())
        axes.set_title(
            f"layer {name}: mean {float(rate.mean()):.3g} (dashed), {silent} of {len(rate)} silent", fontsize=10
        )
        axes.set(ylabel="neurons", xlim=(0.0, highest * 1.02))
        axes.yaxis.get_major_locator().set_params(integer=True)
    panels[-1].set_xlabel(_RATE)
    return figure


def accuracy_against_steps(results: Mapping[str, Mapping[int, float | Sequence[float]]]) -> Figure:
    """Test accuracy against the number of time steps; see `edgepep.lineplots.accuracy_against`."""
    return accuracy_against(results, "time steps")


def _one(x: Tensor, sample: int) -> Tensor:
    if not 0 <= sample < len(x):
        raise EdgepepError(f"sample is {sample}; the batch has {len(x)}, counted from 0.")
    return x[sample : sample + 1]


@torch.no_grad()
def _spiking(network: Network, x: Tensor) -> Iterator[_Seen]:
    """Run a copy in evaluation, over all of time at once; yield each population with what it was given and did."""
    copied = copy.deepcopy(network).eval()
    copied.window = None
    seen: list[_Seen] = []
    for layer in copied.chain:
        for population in layer.neurons.modules():
            if isinstance(population, Spiking):
                population.register_forward_hook(
                    lambda m, given, spikes, name=layer.name: seen.append(_Seen(name, m, given[0], spikes))
                )
    none = True
    for _ in copied.stream(x):
        while seen:
            none = False
            yield seen.pop(0)
    if none:
        raise EdgepepError("the network has no spiking neurons.")


@torch.no_grad()
def _potentials(seen: _Seen) -> Tensor:
    """Potentials [time, ...] of the first sample, by the population's own equation."""
    state = seen.population.rest(seen.current[0])
    potentials = []
    for current in seen.current:
        state, _ = seen.population.advance(state, current)
        potentials.append(state[-1][0].clone())
    return torch.stack(potentials)


def _draw_potential(axes: Any, potential: Tensor, threshold: float, spikes: Tensor) -> None:
    steps = torch.arange(1, len(potential) + 1)
    axes.plot(steps.numpy(), potential.numpy(), "-", color="black", linewidth=1.2, marker=".", markersize=4)
    axes.axhline(threshold, color="black", linestyle="--", linewidth=0.8)
    fired = steps[spikes != 0]
    low, high = min(float(potential.min()), 0.0), max(float(potential.max()), threshold)
    top = high + 0.2 * (high - low)
    axes.plot(fired.numpy(), [top] * len(fired), "v", color="black", markersize=5)
    axes.set_ylim(low - 0.1 * (high - low), top + 0.15 * (high - low))


def _panels(count: int, height: float) -> tuple[Figure, list[Any]]:
    """A figure with panels below each other, that share their first axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 0.9 + height * count), dpi=150, layout="constrained")
    grid = figure.subplots(count, 1, sharex=True, squeeze=False)
    return figure, list(grid[:, 0])


def _over_time(panels: Sequence[Any], steps: int, label: str = "time step") -> None:
    panels[-1].set(xlabel=label, xlim=(0.5, steps + 0.5))
    panels[-1].xaxis.get_major_locator().set_params(integer=True)
