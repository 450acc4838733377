"""The work between layers with weights, as modules fit for steps of several passes."""

from __future__ import annotations

import copy
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn

from edgepep.errors import ConversionError
from edgepep.foreign import is_foreign, refuse_quantised_synapses, stand_for
from edgepep.local import weight_gradient
from edgepep.neurons import Dropout, Spiking
from edgepep.normalisation import NORMS, Norm
from edgepep.time_axis import EachStep


def has_update(module: nn.Module) -> bool:
    """Whether there is a local update for this very module: one that its type, or a trusted library's, computes by."""
    kind = type(module)
    known = weight_gradient.dispatch(kind) is not weight_gradient.dispatch(object)
    trusted = kind in weight_gradient.registry or kind.__module__.split(".")[0] in ("torch", "brevitas", "edgepep")
    inherited = {vars(base).get("forward") for base in weight_gradient.registry}
    return known and (trusted or getattr(kind, "forward", None) in inherited)


def refuse_what_would_not_learn(path: str, module: nn.Module) -> None:
    """Raise ConversionError for weights computed from others, and quantisers whose scale would have to learn."""
    refuse_quantised_synapses(path, module)
    learning = {name for name, p in module.named_parameters() if p.requires_grad}
    hidden = ", ".join(sorted(learning - {"weight", "bias"}))
    if hidden or "weight" not in module._parameters:
        raise ConversionError(
            f"{path} ({type(module).__name__}) learns through {hidden or 'a weight that is computed'}, for which there "
            "is no local update; take the parametrisation off, or freeze it."
        )
    if getattr(getattr(module, "bias_quant", None), "requires_input_scale", False) and module.bias is not None:
        raise ConversionError(f"{path} has a quantised bias that needs the input's scale; leave the bias in floats.")


class Workshop:
    """Makes modules of a traced module's nodes.

    Args:
        root: that was traced.
        steps: of time, for spiking modules.
        statistics: of BatchNorm while training.
        seed: of dropout.

    """

    def __init__(self, root: nn.Module, steps: int | None, statistics: str, seed: int) -> None:
        self.root, self.steps, self.statistics, self.seed = root, steps, statistics, seed
        self.modules = dict(root.named_modules())

    def as_module(self, base: fx.Node | None, work: Sequence[fx.Node]) -> nn.Module:
        """Some nodes that follow a base, as one module; a module of the user's stands for itself where it can."""
        if not work:
            return nn.Identity()
        modules = [self.modules[str(n.target)] for n in work if n.op == "call_module"]
        if len(modules) == len(work):
            own = [self.own(m) for m in modules]
            return own[0] if len(own) == 1 else nn.Sequential(*own)
        graph = fx.Graph()
        known = {base: graph.placeholder("x")}
        attributes: dict[str, Any] = {}

        def copied(node: fx.Node) -> fx.Node:
            if node not in known:
                if node.op == "call_module":
                    attributes[str(node.target)] = self.own(self.modules[str(node.target)])
                for needed in node.all_input_nodes:
                    copied(needed)
                if node.op == "get_attr":
                    attributes[str(node.target)] = operator.attrgetter(str(node.target))(self.root)
                known[node] = _not_in_place(graph.node_copy(node, lambda n: known[n]))
            return known[node]

        graph.output(copied(work[-1]))
        return fx.GraphModule(attributes, graph)

    def own(self, module: nn.Module) -> nn.Module:
        """The module itself, or what stands for it in steps of several passes."""
        if is_foreign(module):
            stand = stand_for(type(module).__name__, module, self.steps)
            if stand.rounding is None:
                raise ConversionError(f"{type(module).__name__} does not follow a layer with weights.")
            return stand.rounding
        if isinstance(module, NORMS):
            return Norm(module, self.statistics)
        if isinstance(module, nn.Dropout):
            return Dropout(module.p, self.seed)
        if isinstance(module, nn.modules.dropout._DropoutNd):
            raise ConversionError(f"{type(module).__name__} draws a new mask in every pass; use nn.Dropout.")
        if isinstance(module, nn.RReLU):
            raise ConversionError("RReLU draws new slopes in every pass; use nn.LeakyReLU.")
        if getattr(module, "inplace", False):  # what it would overwrite is used again
            module = copy.copy(module)
            module.inplace = False  # type: ignore[assignment]
        return module


def as_over_time(module: nn.Module) -> nn.Module:
    """A module as it is applied among neurons over time."""
    if isinstance(module, Dropout):
        module.over_time = True  # one mask for all steps
    return module if isinstance(module, (Spiking, Dropout)) else EachStep(module)


def _not_in_place(node: fx.Node) -> fx.Node:
    if node.kwargs.get("inplace"):
        node.kwargs = {**node.kwargs, "inplace": False}
    if node.op == "call_method" and str(node.target).endswith("_"):
        node.target = str(node.target).rstrip("_")
    name = getattr(node.target, "__name__", "")
    if node.op == "call_function" and name.endswith("_") and not name.endswith("__"):
        node.target = getattr(torch, name.rstrip("_"))
    return node
