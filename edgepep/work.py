"""The work between layers with weights, as modules fit for steps of several passes."""

from __future__ import annotations

import copy
import operator
from collections.abc import Sequence
from typing import Any

from torch import fx, nn

from edgepep.errors import ConversionError
from edgepep.foreign import is_foreign, stand_for
from edgepep.neurons import Dropout
from edgepep.normalisation import NORMS, Norm


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
        if getattr(module, "inplace", False):  # what it would overwrite is used again
            module = copy.copy(module)
            module.inplace = False  # type: ignore[assignment]
        return module


def _not_in_place(node: fx.Node) -> fx.Node:
    if node.kwargs.get("inplace"):
        node.kwargs = {**node.kwargs, "inplace": False}
    if node.op == "call_method" and str(node.target).endswith("_"):
        node.target = str(node.target).rstrip("_")
    return node
