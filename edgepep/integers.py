"""Quantised synapses as integers: codes multiplied and summed exactly, and one scale after the sum.

A sum of integers below 2**24 is exact in 32-bit floats, in whatever order a library adds. So every runtime computes the
same currents, to the last bit, and spikes that follow from them are the same spikes.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgepep.errors import ExportError
from edgepep.layer import Layer
from edgepep.local import respond
from edgepep.network import Network
from edgepep.neurons import Frames, Rate, Repeat

LEVELS = 255
"""Steps from 0 to 1 of the data of a constant current: those of 8-bit images."""
_EXACT = 2**24


class Coded(nn.Module):
    """Synapses whose weights are codes times a scale, applied after the sum.

    Args:
        synapses: quantised ones, linear or convolutional.
        levels: steps from 0 to 1 to which the input is rounded; 0 for inputs that are integers.
        name: of their layer, for errors.

    Raises:
        ExportError: if they are not quantised, or a sum could exceed what 32-bit floats hold exactly.

    """

    codes: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, synapses: nn.Module, levels: int, name: str) -> None:
        super().__init__()
        if not hasattr(synapses, "quant_weight"):
            raise ExportError(f"layer {name} has weights in floats; integer codes are those of quantised weights.")
        quantised: Any = synapses.quant_weight()  # type: ignore[operator]
        codes = quantised.int(float_datatype=False)
        scale = quantised.scale.detach().reshape(-1, *[1] * (codes.dim() - 2))
        if (quantised.zero_point != 0).any():
            raise ExportError(f"layer {name} has codes with a zero point; codes must be symmetric around 0.")
        reach = int(codes.abs().flatten(1).sum(1, dtype=torch.int64).max()) * max(levels, 1)
        if reach >= _EXACT:
            raise ExportError(
                f"layer {name}: a sum of codes can reach {reach}; 32-bit floats are exact below {_EXACT}."
            )
        self.register_buffer("codes", codes.to(torch.int8))
        self.register_buffer("scale", scale / levels if levels else scale)
        bias: Tensor | None = getattr(synapses, "bias", None)
        self.register_buffer("bias", None if bias is None else bias.detach().reshape(-1, *[1] * (codes.dim() - 2)))
        self.levels, self.plain = levels, _without_quantisers(synapses)

    def forward(self, x: Tensor) -> Tensor:
        """From [batch, ...] to the current."""
        if self.levels:
            x = (x * self.levels).round()
        current = respond(self.plain, x, self.codes.to(x.dtype)) * self.scale
        return current if self.bias is None else current + self.bias


class CountedReadout(nn.Module):
    """A readout of rates: the codes meet spike counts, and what they sum to is scaled and divided by the steps.

    Args:
        synapses: linear; its bias is added after the division.

    """

    bias: Tensor | None

    def __init__(self, synapses: Coded) -> None:
        super().__init__()
        self.register_buffer("bias", synapses.bias)
        synapses.bias, self.synapses = None, synapses

    def forward(self, spikes: Tensor) -> Tensor:
        """From spikes [time, batch, ...] to logits [batch, classes]."""
        logits: Tensor = self.synapses(spikes.sum(0).flatten(1)) / spikes.shape[0]
        return logits if self.bias is None else logits + self.bias


def coded(network: Network) -> Network:
    """Return a copy, in evaluation mode, whose layers over time have integer codes.

    Raises:
        ExportError: if a layer cannot have them, or does not read integers.

    """
    twin = copy.deepcopy(network).cpu().eval()
    twin.window = None
    for i, layer in enumerate(twin.chain):
        if not layer.over_time:
            if i and twin.chain[i - 1].over_time and _reads_rates(layer):
                layer.prepare, layer.synapses = CountedReadout(Coded(layer.synapses, 0, layer.name)), nn.Identity()
            continue
        for module in layer.prepare.modules():
            if not isinstance(module, (nn.Sequential, nn.Identity, nn.Flatten, nn.MaxPool2d)):
                raise ExportError(f"layer {layer.name}: after {type(module).__name__} there are no integers any more.")
        levels = LEVELS if i == 0 and type(twin.encode) is Repeat else 0
        layer.synapses = Coded(layer.synapses, levels, layer.name)
    return twin


def _reads_rates(layer: Layer) -> bool:
    """Whether a quantised linear layer reads the rate of what spikes, and nothing else."""
    first, *rest = layer.prepare if isinstance(layer.prepare, nn.Sequential) else [layer.prepare]
    plain = isinstance(first, Rate) and all(isinstance(m, (nn.Flatten, nn.Identity)) for m in rest)
    return plain and isinstance(layer.synapses, nn.Linear) and hasattr(layer.synapses, "quant_weight")


def small_initialisers(path: Path) -> None:
    """Store a file's integer weights as int8, cast to floats where they are used."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(path)
    for i, tensor in enumerate(model.graph.initializer):
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.ndim < 2 or (values != values.astype("int8")).any():
            continue
        name, codes = tensor.name, f"{tensor.name}.codes"
        model.graph.initializer[i].CopyFrom(numpy_helper.from_array(values.astype("int8"), codes))
        model.graph.node.insert(0, helper.make_node("Cast", [codes], [name], to=TensorProto.FLOAT))
    onnx.checker.check_model(model)
    onnx.save(model, path)


def check_inputs(network: Network, x: Tensor) -> None:
    """Raise ExportError unless data are what codes stand for: multiples of 1 / LEVELS, or integers."""
    if type(network.encode) is Repeat:
        x = x * LEVELS
    elif type(network.encode) is not Frames:
        return
    off = (x - x.round()).abs().max()
    if off > 1e-3:
        allowed = f"multiples of 1/{LEVELS}" if type(network.encode) is Repeat else "counts"
        raise ExportError(f"integer codes take data that are {allowed}; these are {float(off):.2g} of a step beside.")


def _without_quantisers(synapses: nn.Module) -> nn.Module:
    """Plain synapses of the same geometry, whose weights are not used."""
    if isinstance(synapses, nn.Linear):
        return nn.Linear(1, 1, bias=False, device="meta")
    assert isinstance(synapses, (nn.Conv1d, nn.Conv2d))
    kind = nn.Conv2d if isinstance(synapses, nn.Conv2d) else nn.Conv1d
    return kind(
        synapses.in_channels,
        synapses.out_channels,
        synapses.kernel_size,  # type: ignore[arg-type]
        synapses.stride,  # type: ignore[arg-type]
        synapses.padding,  # type: ignore[arg-type]
        synapses.dilation,  # type: ignore[arg-type]
        synapses.groups,
        False,
        device="meta",
    )
