"""A recipe's words for time: codes, populations, decoders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from edgepep.errors import RecipeError
from edgepep.neurons import Alpha, Frames, Lapicque, Latency, Leaky, Poisson, Rate, Repeat, RLeaky, Synaptic, Trace

if TYPE_CHECKING:
    from edgepep.tables import SpikingTable


def encoder(table: SpikingTable, seed: int) -> nn.Module:
    """What gives data a time axis."""
    if table.code == "poisson":
        return Poisson(table.steps, seed)
    if table.code == "latency":
        return Latency(table.steps)
    return Frames() if table.code == "frames" else Repeat(table.steps)


def decoder(table: SpikingTable) -> nn.Module:
    """What reads one value from the time axis."""
    return Trace(table.trace_decay) if table.read == "trace" else Rate()


def neurons(table: SpikingTable, current: Tensor) -> nn.Module:
    """Make a population for a current [time, batch, ...]; recurrent weights start small, drawn from torch's generator.

    Raises:
        RecipeError: for a parameter that the kind of neurons does not have.

    """
    kind = table.neurons
    if (table.alpha is not None) != (kind in ("synaptic", "alpha")):
        need = "need" if table.alpha is None else "have no"
        raise RecipeError(f"spiking.alpha: {kind} neurons {need} alpha.")
    if kind in ("alpha", "lapicque") and not table.reset_delay:
        raise RecipeError(f"spiking.reset_delay: {kind} neurons reset in the step after the spike.")
    options: dict[str, Any] = {"reset_mechanism": table.reset, "compiled": table.compiled}
    if kind == "alpha":
        return Alpha(table.alpha or 0.0, table.beta, table.threshold, **options)
    if kind == "lapicque":
        return Lapicque(table.beta, threshold=table.threshold, **options)
    options["reset_delay"] = table.reset_delay
    if kind == "synaptic":
        return Synaptic(table.alpha or 0.0, table.beta, table.threshold, **options)
    if kind == "rleaky":
        return RLeaky(table.beta, _recurrent(current), table.threshold, **options)
    return Leaky(table.beta, table.threshold, **options)


def _recurrent(current: Tensor) -> nn.Module:
    """All-to-all weights of a population, or a convolution of its map."""
    size = current.shape[2]
    if current.dim() == 3:
        made: nn.Module = nn.Linear(size, size, bias=False)
    else:
        made = nn.Conv2d(size, size, 3, padding=1, bias=False)
    for weight in made.parameters():
        nn.init.normal_(weight, std=0.1 / weight[0].numel() ** 0.5)
    return made
