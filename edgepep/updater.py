"""Updates applied where they arise: no gradient is held, and the weights end up the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from edgepep.deferred import Deferred
from edgepep.descent import descend_
from edgepep.errors import EdgepepError
from edgepep.followed import Followed
from edgepep.groups import parameter_groups, refuse_shared
from edgepep.local import Factor, Gradient, Product
from edgepep.stand_in import StandIn
from edgepep.update_noise import COUNTER, UpdateNoise

if TYPE_CHECKING:
    from edgepep.layer import Layer
    from edgepep.network import Network
    from edgepep.rule import Rule

_WORTH_IT = 2**16  # weights of a matrix whose updates are deferred


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
        noise: added to every gradient, Gaussian, of a standard deviation that is this share of its root mean square.
        seed: of the noise.

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
        noise: float = 0.0,
        seed: int = 0,
    ) -> None:
        limits = (("lr", lr, float("inf")), ("momentum", momentum, 1.0), ("weight_decay", weight_decay, float("inf")))
        for name, value, top in limits:
            if not 0 <= value < top:
                raise EdgepepError(f"{name} is {value}; it must be at least 0 and below {top}.")
        self.follow, self.noise = follow and not noise, UpdateNoise(noise, seed)
        self._followed: dict[nn.Parameter, Followed] = {}
        self._deferred: dict[nn.Parameter, Deferred] = {}
        self._restored: dict[nn.Parameter, tuple[int, dict[str, Any]]] = {}
        super().__init__(
            parameter_groups(network, lr, rates or {}), lr=lr, momentum=momentum, weight_decay=weight_decay
        )
        refuse_shared(network)
        for layer in network.chain:
            layer.updater = self

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with settings of their own, as in torch."""
        _unwrapped(torch.optim.SGD.add_param_group)(self, param_group)
        self._group_of = {p: group for group in self.param_groups for p in group["params"]}
        self._place_of = {p: i for i, p in enumerate(self._group_of)}

    def state_dict(self) -> dict[str, Any]:
        """Torch's, and the followed responses, which a sum of small products gives otherwise than one product."""
        state: dict[str, Any] = _unwrapped(torch.optim.SGD.state_dict)(self)
        place = self._place_of
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
                wanted = _shapes(parameter).get(name, tuple(parameter.shape))
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
        if self.noise.share:
            gradient = self.noise.added(gradient, self._place_of[parameter], self.state[parameter])
        if isinstance(parameter, StandIn):
            descend_(parameter, gradient, scale, lr, momentum, decay, self.state[parameter])
            return
        followed = self._followed.get(parameter)
        current = followed is not None and followed.update(parameter, gradient, scale, lr, momentum, decay)
        deferred = self._deferred.get(parameter)
        if deferred is not None and isinstance(gradient, Product) and gradient.left.shape[0] == 1:
            deferred.add(gradient, scale, lr)  # type: ignore[arg-type]
        else:
            if deferred is not None:
                velocity = deferred.settle()
                self.state[parameter] |= {"momentum_buffer": velocity} if momentum else {}
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
            followed = self._followed[weight] = Followed(
                weight, rows, self.state[weight].get("momentum_buffer"), self._deferred.get(weight)
            )
            version, state = self._restored.pop(weight, (-1, {}))
            if version == weight._version:
                followed.restore(state)
        return followed.response

    @contextmanager
    def deferring(self, rule: Rule) -> Iterator[None]:
        """Within this context, keep updates by one sample each as vectors, and write them into the weights by blocks.

        Learning from one sample at a time then takes less time, the less the larger the weights, and no velocities as
        large as them; the weights are those of the plain steps up to rounding. They are whole again after the context.
        Within it the network answers as it should, but `weight` lags behind, and momentum and weight decay must not be
        changed. Updates by several samples are made at once, as ever.

        Args:
            rule: what is to learn; one that knows weights only by what the synapses answer, such as PEPITA.

        Raises:
            EdgepepError: if the rule reads weights, or learns through another optimizer, or updates have noise.

        """
        if self.noise.share:
            raise EdgepepError("an update with noise is no product of two vectors, and cannot be deferred.")
        if rule.reads_weights:
            raise EdgepepError(
                f"{type(rule).__name__} reads the forward weights, which lag behind while updates are deferred."
            )
        layers = [layer for layer in rule.network.chain if self._may_wait(layer)]
        if any(layer.updater is not self for layer in rule.network.chain):
            raise EdgepepError("the rule's network learns through another optimizer than this one.")
        for layer in layers:
            weight: Any = layer.synapses.weight
            velocity = self.state.pop(weight, {}).get("momentum_buffer")
            layer.deferred = self._deferred[weight] = Deferred(weight, self._group_of[weight]["momentum"], velocity)
        try:
            yield
        finally:
            for layer in layers:
                weight, layer.deferred = layer.synapses.weight, None
                deferred = self._deferred.pop(weight)
                with torch.no_grad():
                    velocity = deferred.settle()
                if deferred.momentum:
                    self.state[weight]["momentum_buffer"] = velocity

    def _may_wait(self, layer: Layer) -> bool:
        """Whether updates of a layer's weights may be deferred, and are worth it."""
        weight: Any = getattr(layer.synapses, "weight", None)
        group = self._group_of.get(weight) if type(layer.synapses) is nn.Linear and not layer.over_time else None
        return group is not None and not layer.resting and not group["weight_decay"] and weight.numel() >= _WORTH_IT

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing is held: every gradient was applied as it arose."""

    def followed(self) -> list[Tensor]:
        """Return what is held beside the velocities: the followed responses and their own velocities."""
        return [t for f in self._followed.values() for t in (f.response, f.velocity)]

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        """Nothing is left to do: every layer has learned already."""


def _shapes(parameter: Tensor) -> dict[str, tuple[int, ...]]:
    """Of what is kept of a parameter and has not its shape."""
    return {"velocity_scale": (len(parameter), 1) if parameter.dim() else (), COUNTER: ()}


def _unwrapped(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of torch's optimizer without its wrapper, which imports torch's compiler: seconds, for nothing."""
    return getattr(method, "__wrapped__", method)
