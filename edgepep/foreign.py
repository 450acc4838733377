"""What stands for snnTorch's neurons and Brevitas' quantisers in a converted network."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import nn

from edgepep.errors import ConversionError
from edgepep.local import transports
from edgepep.neurons import Leaky
from edgepep.synapses import Quantiser


class Stand(NamedTuple):
    """What stands for a module: in a layer's neurons, and before the synapses of the layers that read it."""

    neurons: nn.Module | None = None
    rounding: nn.Module | None = None
    spiking: bool = False


def is_foreign(module: nn.Module) -> bool:
    """Whether a module is snnTorch's or Brevitas', and no synapses."""
    return type(module).__module__.split(".")[0] in ("snntorch", "brevitas") and not transports(module)


def stand_for(path: str, module: nn.Module, steps: int | None) -> Stand:
    """What stands for a module of snnTorch or Brevitas.

    Raises:
        ConversionError: for a kind or a setting that edgepep does not have.

    """
    kind = type(module).__name__
    if kind == "Leaky":
        return Stand(_leaky(path, module, steps), None, True)
    if kind in ("QuantReLU", "QuantIdentity"):
        if getattr(module, "return_quant_tensor", False):
            raise ConversionError(f"{path} ({kind}) returns Brevitas' own tensors; set return_quant_tensor=False.")
        if any(getattr(m, "counter", None) == 0 for m in module.modules()):  # Brevitas counts the batches it has seen
            raise ConversionError(f"{path} ({kind}) has no scale yet; run the module on some batches in train() first.")
        module = copy.deepcopy(module)  # set to its scale; the user's own stays in the mode it is in
    if kind == "QuantReLU":
        return Stand(nn.ReLU(), Quantiser(module))  # a rule compares the activity before rounding
    if kind == "QuantIdentity":
        return Stand(None, Quantiser(module))
    raise ConversionError(
        f"{path} ({kind}) has no counterpart; there are snntorch.Leaky, brevitas.nn.QuantReLU and QuantIdentity."
    )


def _leaky(path: str, module: Any, steps: int | None) -> Leaky:
    if steps is None:
        raise ConversionError(f"{path} (Leaky) is one time step of a spiking network: give convert the number, steps=.")
    plain = {
        "reset_mechanism": "subtract",
        "reset_delay": True,
        "init_hidden": True,
        "inhibition": False,
        "state_quant": False,
    }
    for name, wanted in plain.items():
        value = getattr(module, name, wanted)
        if value != wanted:
            raise ConversionError(f"{path} (Leaky) has {name}={value!r}; edgepep's Leaky has {wanted!r}.")
    found = {}
    for name in ("beta", "threshold"):
        value = torch.as_tensor(getattr(module, name))
        if value.numel() != 1 or value.requires_grad:
            raise ConversionError(
                f"{path} (Leaky) has a {name} of shape {list(value.shape)}; it must be one fixed number."
            )
        found[name] = float(value)
    return Leaky(**found)
