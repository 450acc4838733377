"""Which parameters of a network learn, and how fast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from edgepep.errors import EdgepepError

if TYPE_CHECKING:
    from edgepep.layer import Layer
    from edgepep.network import Network


def parameter_groups(network: Network, lr: float, rates: Mapping[str, float]) -> list[dict[str, Any]]:
    """Parameters that learn, grouped by learning rate, as every torch optimizer takes them.

    Args:
        network: whose layers learn.
        lr: learning rate of layers that no pattern names.
        rates: factors of it, by the pattern of layers' names; the last that matches counts.

    Raises:
        EdgepepError: if a factor is negative, a pattern matches no layer, or nothing learns.

    """
    factor = factors(network, rates)
    groups: dict[float, list[nn.Parameter]] = {}
    for layer in network.chain:
        groups.setdefault(factor[layer], []).extend(layer.learnable())
    found = [{"params": list(dict.fromkeys(ps)), "lr": lr * rate} for rate, ps in groups.items() if ps]
    if not found:
        raise EdgepepError("nothing in the network learns: every layer is frozen.")
    return found


def factors(network: Network, rates: Mapping[str, float]) -> dict[Layer, float]:
    """Factor of the learning rate of each layer; arguments and errors are those of `parameter_groups`."""
    factor = dict.fromkeys(network.chain, 1.0)
    for pattern, rate in rates.items():
        if not isinstance(rate, (int, float)) or not rate >= 0:
            raise EdgepepError(f"the rate of {pattern!r} is {rate!r}; it must be a number of at least 0.")
        factor |= dict.fromkeys(network.select(pattern), rate)
    return factor


def refuse_shared(network: Network) -> None:
    """Raise EdgepepError if two layers share a parameter: each would move it, and its velocity, for itself."""
    owner: dict[nn.Parameter, str] = {}
    for layer in network.chain:
        for parameter in layer.learnable():
            if parameter in owner:
                raise EdgepepError(
                    f"layers {owner[parameter]} and {layer.name} share a parameter of shape {list(parameter.shape)}; "
                    "InPlaceSGD would change it twice a step. Train them with a torch optimizer over `.grad`."
                )
            owner[parameter] = layer.name
