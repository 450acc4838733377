"""What stands for snnTorch's neurons and Brevitas' quantisers in a converted network."""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from edgepep.errors import ConversionError
from edgepep.local import transports
from edgepep.neurons import Alpha, Lapicque, Leaky, RLeaky, Spiking, Synaptic
from edgepep.neurons.rleaky import OneToOne
from edgepep.neurons.surrogate import arctangent
from edgepep.synapses import Quantiser

_POPULATIONS: dict[str, type[Spiking]] = {kind.__name__: kind for kind in (Leaky, Synaptic, Alpha, RLeaky, Lapicque)}


class Stand(NamedTuple):
    """What stands for a module: in a layer's neurons, and before the synapses of the layers that read it."""

    neurons: nn.Module | None = None
    rounding: nn.Module | None = None
    spiking: bool = False


def is_foreign(module: nn.Module) -> bool:
    """Whether a module is snnTorch's or Brevitas', and no synapses."""
    return type(module).__module__.split(".")[0] in ("snntorch", "brevitas") and not transports(module)


def spikes(module: nn.Module) -> bool:
    """Whether a module is a spiking population of snnTorch's."""
    return is_foreign(module) and type(module).__name__ in _POPULATIONS


def stand_for(path: str, module: nn.Module, steps: int | None) -> Stand:
    """What stands for a module of snnTorch or Brevitas.

    Raises:
        ConversionError: for a kind or a setting that edgepep does not have.

    """
    kind = type(module).__name__
    if kind in _POPULATIONS:
        if steps is None:
            raise ConversionError(
                f"{path} ({kind}) is one time step of a spiking network: give convert the number, steps=."
            )
        return Stand(_spiking(path, module), None, True)
    if kind in ("QuantReLU", "QuantIdentity"):
        _refuse_activation_quantiser(path, module)
        if any(getattr(m, "counter", None) == 0 for m in module.modules()):  # Brevitas counts the batches it has seen
            raise ConversionError(f"{path} ({kind}) has no scale yet; run the module on some batches in train() first.")
        module = copy.deepcopy(module)  # set to its scale; the user's own stays in the mode it is in
    if kind == "QuantReLU":
        return Stand(nn.ReLU(), Quantiser(module))  # a rule compares the activity before rounding
    if kind == "QuantIdentity":
        return Stand(None, Quantiser(module))
    raise ConversionError(
        f"{path} ({kind}) has no counterpart; there are snntorch's {', '.join(_POPULATIONS)}, and "
        "brevitas.nn.QuantReLU and QuantIdentity."
    )


def refuse_quantised_synapses(path: str, module: Any) -> None:
    """Raise ConversionError for Brevitas' synapses that no rule could train as they are."""
    if not hasattr(module, "weight_quant"):
        return
    where = f"{path} ({type(module).__name__})"
    if module.return_quant_tensor:
        raise ConversionError(f"{where} returns Brevitas' own tensors; set return_quant_tensor=False.")
    for name, side in (("input_quant", "before"), ("output_quant", "after")):
        if getattr(module, name).is_quant_enabled:
            raise ConversionError(
                f"{where} has an {name}, whose scale would change in every pass; put a QuantIdentity {side} it instead."
            )
    quant = module.weight_quant.tensor_quant
    if module.weight_quant.is_quant_enabled and _levels(quant) < 1:
        raise ConversionError(
            f"{where} has integer weights of {_bits(quant)} bits, which hold nothing but 0; take 2 or more, or for 1 "
            "edgepep.quantisers.SignedBinaryWeightPerTensorMean."
        )
    learning = [name for name, p in module.weight_quant.named_parameters() if p.requires_grad]
    if learning:
        raise ConversionError(
            f"{where} has a weight quantiser that learns ({', '.join(learning)}), for which no rule has a gradient; "
            "take one whose scale follows from the weights, or freeze it with requires_grad_(False)."
        )


def _refuse_activation_quantiser(path: str, module: Any) -> None:
    """Raise ConversionError for QuantReLU and QuantIdentity that round to nothing sensible."""
    where = f"{path} ({type(module).__name__})"
    if module.return_quant_tensor:
        raise ConversionError(f"{where} returns Brevitas' own tensors; set return_quant_tensor=False.")
    if not module.act_quant.is_quant_enabled:
        return
    quant = module.act_quant.fused_activation_quant_proxy.tensor_quant
    if _levels(quant) < 1:
        raise ConversionError(f"{where} has codes of {_bits(quant)} bits, which hold nothing but 0; take 1 or more.")
    if type(module).__name__ == "QuantReLU" and module.act_quant.is_signed:
        raise ConversionError(
            f"{where} has signed codes, of which the negative half is never used; take an unsigned quantiser, such as "
            "Uint8ActPerTensorFloat, or a QuantIdentity."
        )


def _bits(quant: Any) -> int:
    return int(quant.msb_clamp_bit_width_impl())


def _levels(quant: Any) -> float:
    """Codes above the lowest of an integer quantiser; infinite where that is not known."""
    if not hasattr(quant, "int_quant") or not hasattr(quant.int_quant, "max_int"):
        return math.inf
    bits = quant.msb_clamp_bit_width_impl()
    return float(quant.int_quant.max_int(bits) - quant.int_quant.min_int(bits)) if bits > 0 else 0.0


def _spiking(path: str, module: Any) -> Spiking:
    """Population with a snnTorch module's parameters; what learns there is shared."""
    kind = type(module).__name__
    if getattr(module, "state_quant", False):
        raise ConversionError(f"{path} ({kind}) rounds its state (state_quant), which edgepep's does not.")
    options: dict[str, Any] = {
        name: getattr(module, name)
        for name in ("reset_mechanism", "reset_delay", "inhibition")
        if hasattr(module, name)
    }
    options["threshold"] = module.threshold
    options["graded_spikes_factor"] = module.graded_spikes_factor
    if not module.surrogate_disable and not _is_arctangent(module.spike_grad):
        options["spike_grad"] = module.spike_grad
    if kind == "Lapicque":
        return Lapicque(R=float(module.R), C=float(module.C), time_step=float(module.time_step), **options)
    options["beta"] = _share(module.beta)
    if kind in ("Synaptic", "Alpha"):
        options["alpha"] = _share(module.alpha)
    if kind == "RLeaky":
        recurrent = module.recurrent
        alone = type(recurrent).__name__ == "RecurrentOneToOne"
        options["recurrent"] = OneToOne(module.V).requires_grad_(module.learn_recurrent) if alone else recurrent
    return _POPULATIONS[kind](**options)


def _is_arctangent(surrogate: Any) -> bool:
    """Whether a surrogate has edgepep's own derivative."""
    x = torch.tensor([-0.7, 0.1, 0.4], requires_grad=True)
    with torch.enable_grad():
        (ours,) = torch.autograd.grad(arctangent(x).sum(), x)
        (theirs,) = torch.autograd.grad(surrogate(x).sum(), x)
    return torch.allclose(ours, theirs)


def _share(value: Tensor) -> Tensor:
    """The parameter itself, if it learns; else as snnTorch uses it."""
    return value if isinstance(value, nn.Parameter) and value.requires_grad else value.clamp(0, 1)
