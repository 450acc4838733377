"""Quantised networks as ONNX: codes between QuantizeLinear and DequantizeLinear, weights stored as codes.

Written by edgepep itself, from what a layer says of its codes (`quant_weight`) and a Brevitas activation quantiser of
its grid: Brevitas' own exporter has no form for 1-bit weights, none for edgepep's integer weights, and needs
onnxoptimizer and torch's older way of tracing.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, conv2d, linear, pad

from edgepep.errors import ExportError
from edgepep.network import Network
from edgepep.synapses import Quantiser

_FOUR_BITS = range(-8, 8)
_ALONE = "codes_alone"
"""Name of codes whose layer reads floats."""
_WITH_INT4 = 21
"""First opset whose DequantizeLinear and Cast know 4-bit integers."""


def _emit(operator: str, inputs: tuple[Tensor, ...], dtype: torch.dtype, like: Tensor, **attributes: Any) -> Tensor:
    """One ONNX operator whose answer has the shape of `like`."""
    emitted: Tensor = torch.onnx.ops.symbolic(operator, inputs, attributes, dtype=dtype, shape=like.shape)
    return emitted


class StoredWeights(nn.Module):
    """Synapses whose weights are a file's integers.

    Args:
        synapses: quantised ones, linear or convolutional.
        name: of their layer, for errors.
        rounded: whether their input is rounded; else the weights are floats as soon as the file is loaded.
        last: whether their answer is the network's.

    Raises:
        ExportError: if their codes do not fit 8 bits, or they round what is not weights or input.

    """

    scale: Tensor
    zero: Tensor
    minus: Tensor

    def __init__(self, synapses: Any, name: str, rounded: bool, last: bool) -> None:
        super().__init__()
        for extra in ("output_quant", "bias_quant"):
            if getattr(getattr(synapses, extra, None), "is_quant_enabled", False):
                raise ExportError(f"layer {name}: {extra} is set; a file can hold rounded weights and inputs.")
        if getattr(synapses, "padding_mode", "zeros") != "zeros":
            raise ExportError(f"layer {name}: padding_mode is {synapses.padding_mode!r}; a file can hold 'zeros'.")
        given = getattr(synapses, "input_quant", None)
        self.before = Grid(given, name) if getattr(given, "is_quant_enabled", False) else nn.Identity()
        self.rounded = rounded or isinstance(self.before, Grid)
        weight = synapses.quant_weight()
        codes = weight.int(float_datatype=False).to(torch.int32) - weight.zero_point.to(torch.int32)
        if codes.abs().max() > 127:
            raise ExportError(f"layer {name}: a code is {int(codes.abs().max())}; codes must fit 8 bits, -127 to 127.")
        scale = weight.scale.detach().flatten()
        if len(scale) not in (1, len(codes)):
            raise ExportError(f"layer {name}: {len(scale)} scales; there must be one, or one for each output.")
        self.axis = {"axis": 0} if len(scale) > 1 else {}
        self.kept = "codes" if self.rounded else _ALONE
        self.register_buffer(self.kept, codes.to(torch.int8))
        self.register_buffer("scale", scale if self.axis else scale[0])
        self.register_buffer("zero", torch.zeros_like(self.scale, dtype=torch.int8))
        self.bias, self.pads = synapses.bias, getattr(synapses, "pads", None)
        self.apart = last and self.rounded and self.bias is not None and isinstance(synapses, nn.Linear)
        if self.apart:
            self.register_buffer("minus", -self.bias.detach())
        self.shape: Any = None
        if not isinstance(synapses, nn.Linear):
            self.convolve = conv2d if isinstance(synapses, nn.Conv2d) else conv1d
            self.shape = (synapses.stride, synapses.padding, synapses.dilation, synapses.groups)

    def forward(self, x: Tensor) -> Tensor:
        """From [batch, ...] to the current."""
        x = self.before(x)
        codes = getattr(self, self.kept)
        weight = _emit("DequantizeLinear", (codes, self.scale, self.zero), torch.float32, codes, **self.axis)
        if self.apart:  # added, onnxruntime would take it for part of the product, which then is one of floats
            return linear(x, weight) - self.minus
        if self.shape is None:
            return linear(x, weight, self.bias)
        if self.pads:
            x = pad(x, self.pads)
        answer: Tensor = self.convolve(x, weight, self.bias, *self.shape)
        return answer


class Grid(nn.Module):
    """Activations rounded to codes of at most 8 bits.

    Args:
        quantiser: a proxy of Brevitas' activation quantisers.
        name: of its layer, for errors.

    Raises:
        ExportError: if its codes are wider, or it has several scales.

    """

    scale: Tensor
    zero: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, quantiser: Any, name: str) -> None:
        super().__init__()
        bits, signed = int(quantiser.bit_width()), bool(quantiser.is_signed)
        if bits > 8 or quantiser.scale().numel() > 1:
            raise ExportError(
                f"layer {name}: activations of {bits} bits with {quantiser.scale().numel()} scales; a file can hold at "
                "most 8 bits, and one scale."
            )
        self.dtype = torch.int8 if signed else torch.uint8
        low = -(2 ** (bits - 1)) + int(quantiser.is_narrow_range) if signed else 0
        high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1 - int(quantiser.is_narrow_range)
        self.clips = (low, high) != (torch.iinfo(self.dtype).min, torch.iinfo(self.dtype).max)
        self.register_buffer("scale", quantiser.scale().detach().clone().reshape(()))
        for word, value in (("zero", int(quantiser.zero_point())), ("low", low), ("high", high)):
            self.register_buffer(word, torch.tensor(value, dtype=self.dtype))
        before = quantiser.fused_activation_quant_proxy.activation_impl
        clipped = isinstance(before, nn.ReLU) and not signed and not self.zero
        self.before = nn.Identity() if clipped else before

    def forward(self, x: Tensor) -> Tensor:
        """From [batch, ...] to the same, rounded."""
        x = self.before(x)
        codes = _emit("QuantizeLinear", (x, self.scale, self.zero), self.dtype, x)
        if self.clips:
            codes = _emit("Clip", (codes, self.low, self.high), self.dtype, x)
        return _emit("DequantizeLinear", (codes, self.scale, self.zero), torch.float32, x)


def stored(network: Network) -> Network:
    """Return a copy, in evaluation mode, that torch can trace only: integers, and operators of ONNX.

    Raises:
        ExportError: for codes that a file cannot hold; the message names the layer and what it can hold.

    """
    twin = copy.deepcopy(network).cpu().eval()
    for layer in twin.chain:
        rounded = False
        for parent in list(layer.modules()):
            for word, module in list(parent.named_children()):
                found: Any = module.quantise if isinstance(module, Quantiser) else module
                if hasattr(found, "act_quant") and found.act_quant.is_quant_enabled:
                    setattr(parent, word, Grid(found.act_quant, layer.name))
                    rounded = True
        if hasattr(layer.synapses, "quant_weight"):
            layer.synapses = StoredWeights(layer.synapses, layer.name, rounded, layer is twin.chain[-1])
    return twin


def finish(path: Path, opset: int) -> None:
    """Make a traced file what other tools read best.

    Each scale and zero point is one node's own: onnxruntime crashes when it rewrites one that is shared. Codes from -8
    to 7 are stored in 4 bits and cast to 8 where they are used: onnxruntime does so once, when it loads the file, and
    then multiplies 8-bit integers; of a DequantizeLinear of 4 bits it would make floats in each run. Likewise weights
    of a layer that reads floats are cast and scaled: of a DequantizeLinear it would make floats in each run, or, where
    it puts MatMulNBits in its place, round what the layer reads.

    Raises:
        ExportError: if the opset is older than an operator of the graph.

    """
    import onnx

    model = onnx.load(path)
    _relabel(model, opset)
    _cast(model.graph)
    _unshare(model.graph)
    if opset >= _WITH_INT4:
        _halve(model.graph)
    for part in (model.graph, *model.graph.node, *model.graph.value_info):
        del part.metadata_props[:]  # the tracer's notes, with paths of the machine
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _relabel(model: Any, opset: int) -> None:
    """Declare an older opset whose operators are the same ones."""
    import onnx

    (own,) = [each for each in model.opset_import if each.domain in ("", "ai.onnx")]
    if own.version != opset:
        for node in model.graph.node:
            now, then = (onnx.defs.get_schema(node.op_type, v).since_version for v in (own.version, opset))
            if now != then:
                raise ExportError(f"{node.op_type} of opset {own.version} is another than of opset {opset}.")
        own.version = opset


def _unshare(graph: Any) -> None:
    held = {tensor.name: tensor for tensor in graph.initializer}
    seen: set[str] = set()
    for number, node in enumerate(graph.node):
        for i, name in enumerate(node.input):
            if name in held and name in seen and node.op_type in ("QuantizeLinear", "DequantizeLinear", "Clip"):
                graph.initializer.add().CopyFrom(held[name])
                node.input[i] = graph.initializer[-1].name = f"{name}_{number}"
            seen.add(name)


def _cast(graph: Any) -> None:
    from onnx import TensorProto, helper, numpy_helper

    held = {tensor.name: tensor for tensor in graph.initializer}
    for node in list(graph.node):
        if node.op_type != "DequantizeLinear" or not node.input[0].endswith(_ALONE):
            continue
        codes, scale, floats = node.input[0], f"{node.output[0]}.scale", f"{node.output[0]}.floats"
        shape = [-1] + [1] * (len(held[codes].dims) - 1)
        values = numpy_helper.to_array(held[node.input[1]]).reshape(shape if node.attribute else [])
        graph.initializer.add().CopyFrom(numpy_helper.from_array(values, scale))
        place = list(graph.node).index(node)
        graph.node.insert(place, helper.make_node("Cast", [codes], [floats], to=TensorProto.FLOAT))
        graph.node[place + 1].CopyFrom(helper.make_node("Mul", [floats, scale], node.output))


def _halve(graph: Any) -> None:
    from onnx import TensorProto, helper, numpy_helper

    weights = {node.input[0] for node in graph.node if node.op_type in ("DequantizeLinear", "Cast")}
    for tensor in graph.initializer:
        if tensor.name not in weights or tensor.data_type != TensorProto.INT8:
            continue
        codes = numpy_helper.to_array(tensor)
        if codes.min() not in _FOUR_BITS or codes.max() not in _FOUR_BITS:
            continue
        name, packed = tensor.name, f"{tensor.name}.packed"
        low = codes.flatten().astype("uint8") & 15
        pairs = low.tolist() + [0] * (low.size % 2)
        raw = bytes(a | b << 4 for a, b in zip(pairs[::2], pairs[1::2], strict=True))
        tensor.CopyFrom(helper.make_tensor(packed, TensorProto.INT4, codes.shape, raw, raw=True))
        graph.node.insert(0, helper.make_node("Cast", [packed], [name], to=TensorProto.INT8))
