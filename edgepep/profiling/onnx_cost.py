"""What an ONNX file costs to run: parameters, multiply-accumulates and the most activities alive, from the graph."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from edgepep.errors import EdgepepError
from edgepep.onnx_files import loaded


@dataclass(frozen=True)
class InferenceCost:
    """Counted from a graph, at batch 1."""

    name: str
    parameters: int
    parameter_bytes: int
    macs: dict[str, int]
    peak_bytes: int
    """Most bytes of activities alive between two operators; modelled."""
    moment: str
    """The operator at that moment."""


def inference_cost(path: Path | str) -> InferenceCost:
    """Count an ONNX file; free dimensions, such as the batch, are taken as 1.

    Raises:
        EdgepepError: if it cannot be read, or a product's shape cannot be told.

    """
    import onnx

    path = Path(path)
    try:
        model = loaded(path)
        for value in model.graph.input:
            for side in value.type.tensor_type.shape.dim:
                if not side.dim_value:
                    side.dim_value = 1
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except EdgepepError:
        raise
    except Exception as error:  # protobuf's own, and onnx's
        raise EdgepepError(f"{path} is not an ONNX file that can be read: {str(error).splitlines()[0]}.") from error
    graph = model.graph
    constants = [*graph.initializer, *(_named(node) for node in graph.node if node.op_type == "Constant")]
    constants = [w for w in constants if w is not None]
    weights = {w.name: tuple(w.dims) for w in constants}
    sizes = {w.name: prod(w.dims) * _width(w.data_type) for w in constants}
    shapes = dict(weights)
    widths: dict[str, int] = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        shapes[value.name] = tuple(side.dim_value or 1 for side in kind.shape.dim)
        widths[value.name] = _width(kind.elem_type)
    macs: dict[str, int] = {}
    for node in graph.node:
        count = _macs(node, shapes, path)
        if count:
            macs[node.op_type] = macs.get(node.op_type, 0) + count
    peak, moment = _peak(graph, shapes, widths, _fixed(graph, set(weights)))
    # whole numbers of 64 bits are shapes, not weights
    learned = [w.name for w in constants if w.data_type != onnx.TensorProto.INT64 and w.name not in _grids(graph)]
    parameters, size = sum(prod(weights[name]) for name in learned), sum(sizes[name] for name in learned)
    return InferenceCost(path.name, parameters, size, macs, peak, moment)


def _macs(node: Any, shapes: dict[str, tuple[int, ...]], path: Path) -> int:
    """Multiply-accumulates of one operator; 0 for those that only move or work element by element."""
    place = {"Conv": (1, 0), "ConvInteger": (1, 0), "QLinearConv": (3, 0), "ConvTranspose": (1, 1)}.get(node.op_type)
    try:
        if place is not None:
            weight = shapes[node.input[place[0]]]
            over = shapes[node.output[0]] if node.op_type != "ConvTranspose" else shapes[node.input[0]]
            return prod(over) * prod(weight[1:])
        if node.op_type in ("MatMul", "MatMulInteger", "QLinearMatMul"):
            left = shapes[node.input[0]]
            return prod(shapes[node.output[0]]) * left[-1]
        if node.op_type == "Gemm":
            transposed = any(a.name == "transA" and a.i for a in node.attribute)
            return prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if transposed else -1]
    except KeyError as error:
        raise EdgepepError(f"{path}: the shape of {error} in {node.op_type} {node.name} cannot be told.") from error
    if node.op_type in ("Scan", "Loop", "If", "LSTM", "GRU", "RNN", "Einsum", "Attention"):
        raise EdgepepError(f"{path}: has a {node.op_type}, whose work cannot be told; profile its recipe instead.")
    return 0


def _named(node: Any) -> Any:
    """The tensor of a Constant, under the name of its answer; None if it holds something else."""
    for attribute in node.attribute:
        if attribute.name == "value":
            attribute.t.name = node.output[0]
            return attribute.t
    return None


def _grids(graph: Any) -> set[str]:
    """Names of scales and zero points, which are no weights."""
    quantising = ("QuantizeLinear", "DequantizeLinear")
    return {name for node in graph.node if node.op_type in quantising for name in node.input[1:]}


def _fixed(graph: Any, weights: set[str]) -> set[str]:
    """Weights, and what is made of weights only: dequantised or transposed ones, say."""
    fixed = set(weights)
    for node in graph.node:
        if all(not name or name in fixed for name in node.input):
            fixed.update(node.output)
    return fixed


def _peak(graph: Any, shapes: dict[str, tuple[int, ...]], widths: dict[str, int], fixed: set[str]) -> tuple[int, str]:
    last: dict[str, int] = {value.name: len(graph.node) for value in graph.output}
    for now, node in enumerate(graph.node):
        for name in node.input:
            last[name] = max(last.get(name, 0), now)
    alive = {value.name for value in graph.input if value.name not in fixed}
    peak, moment = 0, ""
    for now, node in enumerate(graph.node):
        alive |= {name for name in node.output if name in last and name not in fixed}
        size = sum(prod(shapes[name]) * widths.get(name, 4) for name in alive if name in shapes)
        if size > peak:
            peak, moment = size, node.op_type
        alive -= {name for name in alive if last.get(name, now) <= now}
    return peak, moment


def _width(kind: int) -> int:
    """Bytes of one value of an ONNX type."""
    import onnx

    try:
        return int(onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize)
    except (KeyError, TypeError):
        return 4


def page(path: Path | str) -> str:
    """The cost of a file, in a few lines."""
    cost = inference_cost(path)
    total = sum(cost.macs.values())
    lines = [
        f"One inference of {cost.name}, batch 1, counted from the graph.",
        "",
        f"{'parameters':<28}{cost.parameters:>14,}",
        f"{'  bytes':<28}{cost.parameter_bytes:>14,}",
        f"{'multiply-accumulates':<28}{total:>14,}",
        *(f"  {kind:<26}{count:>14,}" for kind, count in sorted(cost.macs.items())),
        f"{'activities at the peak, bytes':<30}{cost.peak_bytes:>12,}  (modelled; at {cost.moment})",
        "",
        "What training would cost is not in an inference file: profile the recipe, or the module, it came from.",
    ]
    return "\n".join(lines)
