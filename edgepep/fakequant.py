"""Quantised layers at the speed of plain ones: each weight is quantised once a training step, by a few operations.

Brevitas' modules define a network, are what backpropagation runs through, and are what is exported. Where no gradient
is recorded, their arithmetic is done here instead, bit for bit the same (edgepep.grids), and the passes of a step share
each quantised weight: it is computed again when the weight has changed, which torch counts. What torch does not count
is a blind spot while training: writing through `.data` or NumPy, or replaying a CUDA graph. In evaluation nothing is
shared. Quantisers that edgepep does not know are left to Brevitas, and a warning says so once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from edgepep import grids
from edgepep.grids import kind
from edgepep.products import multiplied

_SYNAPSES = ("QuantLinear", "QuantConv1d", "QuantConv2d")
_told: set[str] = set()
_steps = 0
"""Of any torch optimizer: a fused one changes weights without counting the change."""
Read = TypeVar("Read")


class QuantiserWarning(UserWarning):
    """A quantiser is left to Brevitas, which takes longer."""


def quick(synapses: nn.Module) -> Callable[[Tensor], Tensor]:
    """What to call for the answer of synapses: themselves, or the same with weights that are quantised once a step."""
    if "weight_quant" not in synapses._modules or torch.is_grad_enabled():
        return synapses
    own: Any = synapses
    hooked = own._forward_hooks or own._forward_pre_hooks
    others = (own.input_quant, own.output_quant, own.bias_quant)
    if hooked or own.return_quant_tensor or any(q.is_quant_enabled for q in others):
        return synapses
    weight = quantised_weight(synapses)
    return synapses if weight is None else partial(_answer, own, weight)


def answer(synapses: nn.Module, x: Tensor) -> Tensor:
    """The answer of synapses by `quick`, without a module's call where nothing listens to it."""
    if type(synapses) is nn.Linear and not synapses._forward_hooks and not synapses._forward_pre_hooks:
        own = synapses._parameters
        return multiplied(x, own["weight"], own["bias"])  # type: ignore[arg-type]
    return quick(synapses)(x)


def quantised_weight(synapses: nn.Module) -> Tensor | None:
    """Weights of Brevitas' synapses as they use them, not to be changed; None where Brevitas has to compute them."""
    own: Any = synapses
    proxy, weight = own._modules.get("weight_quant"), own._parameters.get("weight")
    if proxy is None or not proxy.is_quant_enabled or not _just_computing():
        return None
    if type(weight) not in (nn.Parameter, Tensor) or weight.dtype is not torch.float32:
        return None
    if own.export_mode or proxy.export_mode or proxy.cache_inference_quant_weight:
        return None
    kept = _weights.get(synapses)
    if kept is None or kept.quant is not proxy.tensor_quant or kept.device != weight.device:
        kept = _weights[synapses] = _Kept(synapses, proxy.tensor_quant, weight.device)
    if kept.mirror is None or getattr(kept.quant, "observer_only", False):
        return None
    return kept.of(weight, synapses.training)


def weight_used(synapses: nn.Module) -> Tensor:
    """Weights as the synapses use them, quantised if they are; not to be changed."""
    own: Any = synapses
    if not hasattr(synapses, "quant_weight"):
        return own.weight.detach()  # type: ignore[no-any-return]
    weight = quantised_weight(synapses)
    if weight is None:
        answer = own.quant_weight()
        weight = getattr(answer, "value", answer)
    return weight.detach()


def rounded(module: nn.Module, x: Tensor) -> Tensor:
    """Answer of an activation quantiser whose scale is frozen, in evaluation mode."""
    own: Any = module
    if torch.is_grad_enabled() or own.training or kind(own) not in ("QuantReLU", "QuantIdentity"):
        return own(x)  # type: ignore[no-any-return]
    proxy = own.act_quant
    theirs = own._forward_hooks or own._forward_pre_hooks or own.return_quant_tensor or x.dtype is not torch.float32
    theirs = theirs or own.input_quant.is_quant_enabled or not proxy.is_quant_enabled or not _just_computing()
    if theirs or own.export_mode or proxy.export_mode or proxy.cache_inference_quant_act:
        return own(x)  # type: ignore[no-any-return]
    quant = proxy.fused_activation_quant_proxy.tensor_quant
    kept = _activities.get(module)
    if kept is None or kept.quant is not quant:
        kept = _activities[module] = _Frozen(module, quant)
    if kept.grid is None or quant.observer_only:
        return own(x)  # type: ignore[no-any-return]
    return kept.grid.round(x, kept.scale_for(x))


@torch.no_grad()
def frozen(module: nn.Module) -> tuple[grids.Grid, float] | None:
    """Codes and scale of an activation quantiser whose scale is frozen; None if its arithmetic is not known here."""
    own: Any = module
    if kind(own) not in ("QuantReLU", "QuantIdentity") or own.training:
        return None
    found = _Frozen(module, own.act_quant.fused_activation_quant_proxy.tensor_quant)
    return None if found.grid is None else (found.grid, float(found.scale_for(torch.zeros(1))))


class _Kept:
    """The arithmetic of a weight quantiser, and the last weights that it quantised."""

    def __init__(self, synapses: nn.Module, quant: nn.Module, device: torch.device) -> None:
        self.quant, self.device = quant, device
        self.mirror = _read_off(grids.weights, quant) if kind(synapses) in _SYNAPSES else None
        if self.mirror is None:
            _tell(f"weights of {type(synapses).__name__} by {_described(quant)}")
        self.weight: Tensor | None = None
        self.value: Tensor | None = None
        self.state: object = None
        _count_steps()

    def of(self, weight: Tensor, training: bool) -> Tensor:
        """Quantised weights; in training those of the last call, if nothing has changed."""
        assert self.mirror is not None
        counted = training and not torch.is_inference_mode_enabled() and not weight.is_inference()
        if counted and self.value is not None and self.weight is weight and self.state == _state(weight):
            return self.value
        self.value = self.weight = None  # let go before the new one is made
        with torch.no_grad():
            value = self.mirror(weight)
        if counted and type(value) is Tensor:  # none that stands for others, as in a trace
            self.value, self.weight, self.state = value, weight, _state(weight)
        return value


class _Frozen:
    """The arithmetic of an activation quantiser, and its scale, asked of Brevitas again when it has changed."""

    def __init__(self, module: nn.Module, quant: Any) -> None:
        own: Any = module
        fused = own.act_quant.fused_activation_quant_proxy.activation_impl
        known = type(fused) in (nn.ReLU, nn.Identity) or kind(fused) == "Identity"
        self.quant, self.grid = quant, _read_off(grids.activities, quant) if known else None
        if self.grid is None:
            _tell(f"activities of {type(module).__name__} by {_described(quant)}")
        elif type(fused) is nn.ReLU:
            self.grid = self.grid._replace(low=max(self.grid.low, 0.0))
        self.holders = [m for m in quant.scaling_impl.modules() if m._parameters or m._buffers] if self.grid else []
        self.scale: Tensor | None = None
        self.state: list[object] = []

    def scale_for(self, x: Tensor) -> Tensor:
        """Scale on the device of x."""
        scaling = self.quant.scaling_impl
        state: list[object] = [x.device, getattr(scaling, "counter", 0)]
        for module in self.holders:
            state += [_state(t) for t in (*module._parameters.values(), *module._buffers.values()) if t is not None]
        if self.scale is None or state != self.state:
            threshold = self.quant.int_scaling_impl(self.quant.msb_clamp_bit_width_impl())
            self.scale, self.state = scaling(x, threshold).detach().clone(), state
        return self.scale


_weights: WeakKeyDictionary[nn.Module, _Kept] = WeakKeyDictionary()
_activities: WeakKeyDictionary[nn.Module, _Frozen] = WeakKeyDictionary()


def _read_off(read: Callable[[Any], Read | None], quant: nn.Module) -> Read | None:
    """What is read off a quantiser's modules; None if they are not those of the Brevitas that is known here."""
    try:
        return read(quant)
    except (AttributeError, TypeError):
        return None


def _answer(synapses: Any, weight: Tensor, x: Tensor) -> Tensor:
    answer: Tensor = synapses.inner_forward_impl(x, weight, synapses.bias)
    return answer


def _state(tensor: Tensor) -> tuple[int, int, int]:
    """What is another when a tensor has changed."""
    return (tensor._version, tensor.data_ptr(), _steps)


@cache
def _count_steps() -> None:
    register_optimizer_step_post_hook(_stepped)


def _stepped(*_: object) -> None:
    global _steps
    _steps += 1


def _just_computing() -> bool:
    """Whether nothing compiles, traces or exports; modes that only look on do not count."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return False
    onlooker = is_in_torch_dispatch_mode(include_infra_modes=False)
    return onlooker or not is_in_torch_dispatch_mode(include_infra_modes=True)


def _described(quant: Any) -> str:
    scaling = getattr(quant, "scaling_impl", None)
    return type(quant).__name__ + (f" with {type(scaling).__name__}" if scaling is not None else "")


def _tell(what: str) -> None:
    if what not in _told:
        _told.add(what)
        warnings.warn(
            f"{what} are left to Brevitas, which quantises again in every pass of a step: edgepep does not know this "
            "quantiser.",
            QuantiserWarning,
            stacklevel=3,
        )
