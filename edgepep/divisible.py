"""Which spiking networks may go through time in windows with the same answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgepep.errors import EdgepepError
from edgepep.neurons.population import Spiking
from edgepep.time_axis import EachStep

if TYPE_CHECKING:
    from edgepep.network import Network


def refuse_if_impossible(network: Network, window: int) -> None:
    """Raise EdgepepError unless the network can run in windows of some steps."""
    if window < 1:
        raise EdgepepError(f"window is {window}; it must be at least 1 time step.")
    timed = [layer.over_time for layer in network.chain]
    if not timed[0]:
        raise EdgepepError("the network has no time axis to go through in windows.")
    if timed != sorted(timed, reverse=True):
        raise EdgepepError("a layer over time follows one that is not; windows need the layers over time first.")
    for layer in network.chain:
        if layer.over_time and any(isinstance(m, _BatchNorm) for m in layer.modules()):
            raise EdgepepError(f"layer {layer.name} has a BatchNorm, whose statistics are over all time steps.")
        if layer.over_time and not hasattr(layer.decode, "gather"):
            raise EdgepepError(f"layer {layer.name} is read by {type(layer.decode).__name__}, not window by window.")
        for module in _steps_of(layer.neurons) if layer.over_time else []:
            if not isinstance(module, (Spiking, EachStep, nn.Identity)) and not getattr(module, "over_time", False):
                raise EdgepepError(f"layer {layer.name}: {type(module).__name__} would begin anew in every window.")
    for i, layer in enumerate(network.chain):
        for s in network.sources[i] if not layer.over_time else []:
            reads, above = next(iter(_steps_of(layer.prepare))), network.chain[s]
            if above.over_time and (type(reads), vars(reads).get("decay")) != (
                type(above.decode),
                vars(above.decode).get("decay"),
            ):
                raise EdgepepError(f"layer {layer.name} does not read layer {above.name} by its own decoder.")


def _steps_of(module: nn.Module) -> list[nn.Module]:
    return list(module) if isinstance(module, nn.Sequential) and len(module) else [module]


def possible(network: Network) -> bool:
    """Whether the network can run in windows."""
    try:
        refuse_if_impossible(network, 1)
    except EdgepepError:
        return False
    return True
