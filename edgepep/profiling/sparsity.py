"""What one forward pass does on real inputs, by NeuroBench's definitions: synaptic operations, and zeros in answers.

Definitions (NeuroBench 2.3, metrics SynapticOperations and ActivationSparsity), summed over all time steps and divided
by the number of samples:

- Dense operations are products of a weight and an input, zeros included. A convolution's zero padding is no input, so
  its products are not counted, other than in the usual formula; biases are not counted either.
- Effective operations have an input that is not zero and a weight that is not zero.
- They are accumulates (ACs) where the whole input of a layer, at one time step of one batch, holds -1, 0 and 1 only,
  else multiply-accumulates (MACs). So a real-valued input that happens to hold nothing else counts as spikes.
- Activation sparsity is the share of zeros in the answers of ReLUs, sigmoids and spiking neurons; other answers (the
  logits, a tanh) do not count.

Where we differ: operations are exact integers, which NeuroBench adds up in 32-bit floats; quantised weights are those
that are used, after rounding, where NeuroBench looks at the ones before; ReLUs and sigmoids may be functions too. What
is counted is the network as it stands: a readout that was converted to read the mean of its spikes once does
multiply-accumulates once, where the module it came from accumulates spikes at every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgepep.errors import EdgepepError
from edgepep.network import Network
from edgepep.profiling.tally import Tally, watched
from edgepep.time_axis import through

_AT_ONCE = 500  # samples times time steps in a batch


@dataclass(frozen=True)
class LayerWorkload:
    """One layer: synaptic operations of one sample over all time steps, and zeros in its answer."""

    name: str
    """The layer's; recurrent weights among its neurons are a layer of their own, "name.recurrent"."""
    steps: int
    """Time steps at which it is counted; 1 if it reads what was decoded from time, or there is none."""
    dense: int
    macs: float
    acs: float
    executed: int
    """Dense operations that edgepep executes: a current that is constant over time is multiplied once, not each step.
    The other figures count it at every step, as NeuroBench does."""
    sparsity: float | None
    """Share of zeros in what its activation answers; None if it has none, such as a layer of logits."""
    spike_rate: float | None
    """Spikes a neuron and time step; None if it does not spike."""


@dataclass(frozen=True)
class Workload:
    """A network's layers that have weights or an activation, in order, and their totals for one sample."""

    samples: int
    steps: int
    """Time steps of a pass; 1 without time."""
    layers: tuple[LayerWorkload, ...]
    dense: int
    macs: float
    acs: float
    executed: int
    sparsity: float | None
    """Share of zeros in the answers of all activations; None if there are none (NeuroBench then says 0)."""
    spike_rate: float | None
    """Spikes a neuron and time step, over all neurons that spike."""


@torch.no_grad()
def workload(network: Network, x: Tensor, batch: int | None = None) -> Workload:
    """Count one forward pass, in evaluation mode; the mode is put back.

    Args:
        network: on any device; one that runs in windows is run over all of time, a batch at a time.
        x: real inputs [n, ...].
        batch: samples at a time; else as many as keep memory small. Only the division of operations into MACs and ACs
            can depend on it (see above).

    Raises:
        EdgepepError: if there is no input, batch is below 1, or a layer's operations are not known.

    """
    if not len(x):
        raise EdgepepError("there are no inputs to count on.")
    if batch is not None and batch < 1:
        raise EdgepepError(f"batch is {batch}; it must be at least 1.")
    where = next(network.parameters(), x).device
    with watched(network) as watch:
        steps = len(through(network.encode, x[:1].to(where))) if network.chain[0].over_time else 1
        for part in x.split(batch or max(1, _AT_ONCE // steps)):
            for layer, activity in zip(network.chain, network.stream(part.to(where)), strict=True):
                watch.take(layer, activity.pre, len(part))
    tallies = [tally for tally in watch.tallies.values() if tally.dense or tally.answers.elements]
    layers = tuple(
        LayerWorkload(t.name, t.steps, *_operations([t], len(x)), t.answers.sparsity, t.spikes.rate) for t in tallies
    )
    total = _operations(tallies, len(x))
    return Workload(len(x), steps, layers, *total, watch.answers.sparsity, watch.spikes.rate)


def _operations(tallies: Sequence[Tally], n: int) -> tuple[int, float, float, int]:
    """Dense, MACs, ACs and executed ones of some layers for one of n samples: integers, divided once."""
    macs, acs = sum(t.macs for t in tallies), sum(t.acs for t in tallies)
    return sum(t.dense for t in tallies) // n, macs / n, acs / n, sum(t.executed for t in tallies) // n
