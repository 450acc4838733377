"""Updates applied where they arise: no gradient is held, and the weights end up the same."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from edgepep.errors import EdgepepError
from edgepep.local import Gradient, accumulate_
from edgepep.network import Network


class InPlaceSGD(torch.optim.SGD):
    """SGD with momentum that changes each layer's weights at the moment the layer learns.

    A torch.optim.SGD in all else: parameter groups, learning-rate schedulers and state_dict are torch's, and a step
    gives the same weights as torch.optim.SGD up to rounding. What differs is when: `Layer.learn` hands its gradient
    over as it arises, so no `.grad` is ever held, and `step` has nothing left to do.

        v <- momentum * v + gradient + weight_decay * w;    w <- w - lr * v

    Args:
        network: its layers learn through this optimizer from now on.
        lr: learning rate.
        momentum: heavy-ball momentum; 0 keeps no velocity.
        weight_decay: L2 penalty.

    Raises:
        EdgepepError: if a value is out of range.

    """

    def __init__(self, network: Network, lr: float, momentum: float = 0.0, weight_decay: float = 0.0) -> None:
        for name, value, top in (("lr", lr, float("inf")), ("momentum", momentum, 1.0), ("weight_decay", weight_decay, 1e9)):
            if not 0 <= value < top:
                raise EdgepepError(f"{name} is {value}; it must be at least 0 and below {top}.")
        super().__init__(_learnable(network), lr=lr, momentum=momentum, weight_decay=weight_decay)
        for layer in network.layers:
            layer.updater = self

    def add_param_group(self, param_group: dict[str, object]) -> None:
        """Add parameters with settings of their own, as in torch."""
        super().add_param_group(param_group)
        self._group_of = {p: group for group in self.param_groups for p in group["params"]}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """Restore a state_dict of this class or of torch.optim.SGD."""
        super().load_state_dict(state_dict)
        self._group_of = {p: group for group in self.param_groups for p in group["params"]}

    @torch.no_grad()
    def apply(self, parameter: nn.Parameter, gradient: Gradient, scale: float = 1.0) -> None:
        """Change one parameter now, by scale * gradient."""
        group = self._group_of[parameter]
        lr, momentum, decay = float(group["lr"]), group["momentum"], group["weight_decay"]
        if not momentum:
            accumulate_(parameter, gradient, beta=1 - lr * decay, alpha=-lr * scale)
            return
        velocity: Tensor | None = self.state[parameter].get("momentum_buffer")
        if velocity is None:
            velocity = self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        accumulate_(velocity, gradient, beta=momentum, alpha=scale)
        if decay:
            velocity.add_(parameter, alpha=decay)
        parameter.add_(velocity, alpha=-lr)

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        """Nothing is left to do: every layer has learned already."""


def _learnable(network: Network) -> Iterable[nn.Parameter]:
    return [p for layer in network.layers for p in layer.synapses.parameters() if p.requires_grad]
