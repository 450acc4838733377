"""PyTorch with onnxruntime's own matrix products, softmax and tanh: sums in the same order, so the same bits.

Two libraries add up a product in different orders, and no more than rounding tells their answers apart. To see that
a graph is the step that PyTorch runs, rather than something near it, these few operators are taken from onnxruntime,
one at a time, while PyTorch does everything else:

    with OrtKernels():
        step(x, target, rate, *state)
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnx import TensorProto, helper
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from edgepep.onnx_files import Runner

_aten = torch.ops.aten


class OrtKernels(TorchDispatchMode):
    """Within this context onnxruntime, with one thread, does PyTorch's matrix products, softmax and tanh."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sessions: dict[tuple[Any, ...], Runner] = {}
        self.own: dict[Any, Callable[..., Tensor]] = {
            _aten.mm.default: self._product,
            _aten.addmm.default: self._sum,
            _aten.addmm_.default: lambda c, *rest, **factors: c.copy_(self._sum(c, *rest, **factors)),
            _aten._softmax.default: lambda x, axis, _: self._call("Softmax", x, axis=axis),
            _aten.tanh.default: lambda x: self._call("Tanh", x),
        }

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self.own.get(func, func)(*args, **(kwargs or {}))

    def _product(self, a: Tensor, b: Tensor) -> Tensor:
        return self._gemm(a, b)

    def _sum(self, c: Tensor, a: Tensor, b: Tensor, *, beta: float = 1.0, alpha: float = 1.0) -> Tensor:
        return self._gemm(a, b, c, alpha=float(alpha), beta=float(beta))

    def _gemm(self, a: Tensor, b: Tensor, *c: Tensor, **factors: float) -> Tensor:
        turned = [not t.is_contiguous() and t.t().is_contiguous() for t in (a, b)]
        a, b = (t.t() if turn else t for t, turn in zip((a, b), turned, strict=True))
        return self._call("Gemm", a, b, *c, transA=int(turned[0]), transB=int(turned[1]), **factors)

    def _call(self, operator: str, *given: Tensor, **attributes: float) -> Tensor:
        key = (operator, len(given), *sorted(attributes.items()))
        if key not in self.sessions:
            self.sessions[key] = _one(operator, len(given), attributes)
        return self.sessions[key](dict(zip("abc", (t.detach().contiguous() for t in given), strict=False)))[0]


def _one(operator: str, count: int, attributes: dict[str, Any]) -> Runner:
    names = list("abc"[:count])
    node = helper.make_node(operator, names, ["y"], **attributes)
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
    answer = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    opset = helper.make_opsetid("", 18)
    model = helper.make_model(helper.make_graph([node], "one", given, [answer]), opset_imports=[opset], ir_version=9)
    return Runner(model.SerializeToString(), threads=1)
