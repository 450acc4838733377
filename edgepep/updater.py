"""Updates applied where they arise: no gradient is held, and the weights end up the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from edgepep.errors import EdgepepError
from edgepep.followed import Followed
from edgepep.local import Factor, Gradient, accumulate_
from edgepep.stand_in import StandIn

if TYPE_CHECKING:
    from edgepep.network import Network


class Updater(Protocol):
    """What a layer hands its gradients to as they arise."""

    follow: bool
    """Whether `response` is followed through updates."""

    def apply(self, parameter: nn.Parameter, gradient: Gradient, scale: Factor = 1.0) -> None:
        """Change one parameter by scale * gradient."""

    def response(self, weight: nn.Parameter, rows: Tensor) -> Tensor:
        """Return rows @ weight.T for fixed rows."""


class InPlaceSGD(torch.optim.SGD):
    """SGD with momentum that changes each layer's weights at the moment the layer learns.

    A torch.optim.SGD in all else: parameter groups, learning-rate schedulers and state_dict are torch's, and a step
    gives the same weights as torch.optim.SGD up to rounding. What differs is when: `Layer.learn` hands its gradient
    over as it arises, so no `.grad` is ever held, and `step` has nothing left to do. Change weights by hand under
    `torch.no_grad()`, not through `.data`, which hides the change from what is followed.

        v <- momentum * v + gradient + weight_decay * w;    w <- w - lr * v

    Args:
        network: its layers learn through this optimizer from now on.
        lr: learning rate.
        momentum: heavy-ball momentum; 0 keeps no velocity.
        weight_decay: L2 penalty.
        rates: factors of the learning rate, by the pattern of layers' names; the last that matches counts.
        follow: keep the first layer's answer to PEPITA's feedback up to date rather than multiply it afresh: less
            work, for two rows of it a class in memory.

    Raises:
        EdgepepError: if a value is out of range, or a pattern matches no layer.

    """

    def __init__(
        self,
        network: Network,
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        rates: Mapping[str, float] | None = None,
        follow: bool = True,
    ) -> None:
        limits = (("lr", lr, float("inf")), ("momentum", momentum, 1.0), ("weight_decay", weight_decay, float("inf")))
        for name, value, top in limits:
            if not 0 <= value < top:
                raise EdgepepError(f"{name} is {value}; it must be at least 0 and below {top}.")
        self.follow = follow
        self._followed: dict[nn.Parameter, Followed] = {}
        self._restored: dict[nn.Parameter, tuple[int, dict[str, Any]]] = {}
        super().__init__(
            parameter_groups(network, lr, rates or {}), lr=lr, momentum=momentum, weight_decay=weight_decay
        )
        _refuse_shared(network)
        for layer in network.chain:
            layer.updater = self

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with settings of their own, as in torch."""
        _unwrapped(torch.optim.SGD.add_param_group)(self, param_group)
        self._group_of = {p: group for group in self.param_groups for p in group["params"]}

    def state_dict(self) -> dict[str, Any]:
        """Torch's, and the followed responses, which a sum of small products gives otherwise than one product."""
        state: dict[str, Any] = _unwrapped(torch.optim.SGD.state_dict)(self)
        place = {p: i for i, p in enumerate(p for group in self.param_groups for p in group["params"])}
        waiting = {place[p]: kept for p, (version, kept) in self._restored.items() if version == p._version}
        live = {place[p]: f.state() for p, f in self._followed.items() if f.version == p._version}
        return state | {"followed": waiting | live}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state_dict of this class or of torch.optim.SGD; the weights are to be restored before.

        Raises:
            EdgepepError: if a velocity has not the shape of its weights.

        """
        _unwrapped(torch.optim.SGD.load_state_dict)(self, state_dict)
        parameters = [p for group in self.param_groups for p in group["params"]]
        self._group_of = {p: group for group in self.param_groups for p in group["params"]}
        for parameter, state in self.state.items():
            if "velocity_codes" in state:  # torch has made them floats, as it takes the weights to be
                state["velocity_codes"] = state["velocity_codes"].to(torch.int8)
                state["velocity_scale"] = state["velocity_scale"].to(torch.float32)
            for name, value in state.items():
                wanted = (len(parameter), 1) if name == "velocity_scale" else tuple(parameter.shape)
                if isinstance(value, Tensor) and tuple(value.shape) != wanted:
                    raise EdgepepError(f"{name} of weights {list(parameter.shape)} has the shape {list(value.shape)}.")
        self._followed.clear()
        kept = state_dict.get("followed", {}).items()
        self._restored = {parameters[i]: (parameters[i]._version, state) for i, state in kept}

    def apply(self, parameter: nn.Parameter, gradient: Gradient, scale: Factor = 1.0) -> None:
        """Change one parameter now, by scale * gradient."""
        if torch.is_grad_enabled():
            with torch.no_grad():
                return self.apply(parameter, gradient, scale)
        group = self._group_of.get(parameter)
        if group is None:
            raise EdgepepError(
                f"a parameter of shape {list(parameter.shape)} learns, but was frozen when the optimizer was made; "
                "give it to `add_param_group`, or make the optimizer again."
            )
        lr, momentum, decay = group["lr"], group["momentum"], group["weight_decay"]
        if isinstance(parameter, StandIn):
            descend_(parameter, gradient, scale, lr, momentum, decay, self.state[parameter])
            return
        followed = self._followed.get(parameter)
        current = followed is not None and followed.update(parameter, gradient, scale, lr, momentum, decay)
        descend_(parameter, gradient, scale, lr, momentum, decay, self.state[parameter] if momentum else {})
        if followed is not None and current:
            followed.version = parameter._version

    def response(self, weight: nn.Parameter, rows: Tensor) -> Tensor:
        """Return rows @ weight.T for fixed rows, followed through the updates instead of multiplied again.

        A weight that changes by delta.T @ pre changes its response by (rows @ pre.T) @ delta: a few small products
        in place of one as large as the weight. The response is multiplied afresh when anything else has changed the
        weight, and from time to time.

        Args:
            weight: [out, in] of linear synapses, changed through this optimizer.
            rows: [n, in]; the same tensor on every call.

        """
        followed = self._followed.get(weight)
        if followed is None or not followed.holds(weight, rows):
            followed = self._followed[weight] = Followed(weight, rows, self.state[weight].get("momentum_buffer"))
            version, state = self._restored.pop(weight, (-1, {}))
            if version == weight._version:
                followed.restore(state)
        return followed.response

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing is held: every gradient was applied as it arose."""

    def followed(self) -> list[Tensor]:
        """Return what is held beside the velocities: the followed responses and their own velocities."""
        return [t for f in self._followed.values() for t in (f.response, f.velocity)]

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        """Nothing is left to do: every layer has learned already."""


def descend_(
    parameter: Tensor,
    gradient: Gradient,
    scale: Factor,
    lr: Factor,
    momentum: float,
    decay: float,
    state: dict[str, Tensor],
) -> None:
    """Make one step of SGD on one parameter, in place.

    Args:
        parameter: what changes, or what stands for integer codes.
        gradient: of it.
        scale: factor of the gradient.
        lr: learning rate.
        momentum: heavy-ball momentum; 0 keeps no velocity.
        decay: L2 penalty.
        state: where the velocity is kept.

    """
    if isinstance(parameter, StandIn):
        parameter.synapses.change_(gradient, scale, lr, momentum, decay, state)
    elif momentum:
        velocity = state.get("momentum_buffer")
        if velocity is None:
            velocity = state["momentum_buffer"] = torch.zeros_like(parameter)
        accumulate_(velocity, gradient, beta=momentum, alpha=scale)
        if decay:
            velocity.add_(parameter, alpha=decay)
        accumulate_(parameter, velocity, alpha=-lr)
    else:
        accumulate_(parameter, gradient, beta=1 - lr * decay if decay else 1.0, alpha=-lr * scale)


def _unwrapped(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of torch's optimizer without its wrapper, which imports torch's compiler: seconds, for nothing."""
    return getattr(method, "__wrapped__", method)


def parameter_groups(network: Network, lr: float, rates: Mapping[str, float]) -> list[dict[str, Any]]:
    """Parameters that learn, grouped by learning rate, as every torch optimizer takes them.

    Args:
        network: whose layers learn.
        lr: learning rate of layers that no pattern names.
        rates: factors of it, by the pattern of layers' names; the last that matches counts.

    Raises:
        EdgepepError: if a factor is negative, a pattern matches no layer, or nothing learns.

    """
    factor = dict.fromkeys(network.chain, 1.0)
    for pattern, rate in rates.items():
        if not isinstance(rate, (int, float)) or not rate >= 0:
            raise EdgepepError(f"the rate of {pattern!r} is {rate!r}; it must be a number of at least 0.")
        factor |= dict.fromkeys(network.select(pattern), rate)
    groups: dict[float, list[nn.Parameter]] = {}
    for layer in network.chain:
        groups.setdefault(factor[layer], []).extend(layer.learnable())
    found = [{"params": list(dict.fromkeys(ps)), "lr": lr * rate} for rate, ps in groups.items() if ps]
    if not found:
        raise EdgepepError("nothing in the network learns: every layer is frozen.")
    return found


def _refuse_shared(network: Network) -> None:
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
