"""A traced graph, cut into layers."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from edgepep.errors import ConversionError
from edgepep.foreign import is_foreign, spikes, stand_for
from edgepep.network import Layer, Network
from edgepep.neurons import Rate, Repeat
from edgepep.normalisation import NORMS
from edgepep.work import Workshop, as_over_time, has_update, refuse_what_would_not_learn

_ADD = {operator.add, operator.iadd, torch.add, "add", "add_"}
_ACTIVATIONS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish),
    *(nn.Hardsigmoid, nn.Hardtanh, nn.Tanh, nn.Sigmoid, nn.LogSigmoid, nn.Softplus, nn.Softsign, nn.LogSoftmax),
)
_ELEMENTWISE = {
    *("relu", "relu_", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu", "mish", "hardswish", "hardsigmoid"),
    *("hardtanh", "tanh", "tanh_", "sigmoid", "sigmoid_", "logsigmoid", "softplus", "softsign", "log_softmax"),
}


@dataclass(frozen=True)
class _Value:
    """A tensor of the traced graph: the sum of the posts of some layers (none: the input), then some work on it."""

    sources: tuple[int, ...]
    work: tuple[fx.Node, ...] = ()
    base: fx.Node | None = None
    """The node at which the work begins."""


@dataclass
class _Draft:
    """A layer in the making."""

    name: str
    sources: tuple[int, ...]
    prepare: nn.Module
    synapses: nn.Module
    neurons: list[nn.Module] = field(default_factory=list)
    spiking: bool = False


class Cutter(Workshop):
    """Goes through a graph in order and cuts it into layers."""

    def __init__(self, root: nn.Module, steps: int | None, statistics: str, seed: int) -> None:
        super().__init__(root, steps, statistics, seed)
        self.values: dict[fx.Node, _Value] = {}
        self.drafts: list[_Draft] = []
        self.used: dict[nn.Module, str] = {}
        self.after: dict[int, nn.Module] = {}
        """Quantisers that a layer's readers apply: what a rule compares is the activity before rounding."""

    def add(self, node: fx.Node) -> None:
        """Take in one node."""
        if node.op == "placeholder":
            if self.values and node.args:
                return  # a further argument, left at its default
            if self.values:
                raise ConversionError(f"the forward takes a second input, {node.name!r}; a network has one.")
            self.values[node] = _Value((), (), node)
            if _readers(node) > 1:
                self._junction(node, self.values[node])
        elif node.op == "output":
            self._check_output(node)
        elif node.op == "get_attr":
            self._constant(node)
        else:
            self._computed(node)

    def _computed(self, node: fx.Node) -> None:
        inputs = [n for n in dict.fromkeys(node.all_input_nodes) if n in self.values]
        module = self.modules[str(node.target)] if node.op == "call_module" else None
        if not inputs:
            return  # made of constants only
        if module is not None and self._learns(node, module):
            self._open(node, str(node.target), self.values[inputs[0]], module)
        elif len(inputs) == 2 and node.target in _ADD:
            self._sum(node, inputs)
        elif len({id(self.values[n].base) for n in inputs}) == 1:
            self._work(node, module, inputs)
        else:
            sizes = [n for n in inputs if _is_size(n)]
            said = "takes a size from another tensor than it reshapes; use its own size, or flatten(1)"
            other = f"joins {len(inputs)} tensors; a network joins layers by sums only"
            raise ConversionError(f"{self._place(node)} {said if sizes else other}.")

    def _learns(self, node: fx.Node, module: nn.Module) -> bool:
        if has_update(module):
            refuse_what_would_not_learn(str(node.target), module)
            if module in self.used:
                raise ConversionError(
                    f"{node.target} ({type(module).__name__}) is used twice; a layer learns from one place only. For a "
                    "loop over time, write one step with snnTorch's init_hidden=True and give steps=."
                )
            self.used[module] = str(node.target)
            return True
        known = isinstance(module, NORMS) or is_foreign(module)
        if not known and any(p.requires_grad for p in module.parameters()):
            raise ConversionError(
                f"{node.target} ({type(module).__name__}) has weights but no local update: freeze it with "
                "requires_grad_(False), or register one with edgepep.local.weight_gradient.register."
            )
        return False

    def _open(self, node: fx.Node, name: str, read: _Value, synapses: nn.Module) -> None:
        """Begin a layer that reads a value."""
        if not read.sources and self.drafts:
            raise ConversionError(
                f"{name} reads the input, which another layer has read by itself; sum or branch later."
            )
        rounding = [self.after[s] for s in read.sources if s in self.after]
        work = self.as_module(read.base, read.work)
        prepare = nn.Sequential(*rounding, *([] if isinstance(work, nn.Identity) else [work])) if rounding else work
        self.drafts.append(_Draft(name, read.sources, prepare, synapses))
        self.values[node] = _Value((len(self.drafts) - 1,), (), node)

    def _junction(self, node: fx.Node, value: _Value) -> _Value:
        """A layer without weights, where work stands between a layer and a sum, or several read the same."""
        if value.work or not value.sources or any(s in self.after for s in value.sources):
            self._open(node, f"{node.name}+", value, nn.Identity())
            value = self.values[node]
        return value

    def _sum(self, node: fx.Node, inputs: list[fx.Node]) -> None:
        if any(not isinstance(a, fx.Node) for a in node.args) or node.kwargs:
            raise ConversionError(f"{self._place(node)} is a sum with a factor; only plain sums are known.")
        parts = [self._junction(n, self.values[n]) for n in inputs]
        self.values[node] = _Value(tuple(s for part in parts for s in part.sources), (), node)

    def _work(self, node: fx.Node, module: nn.Module | None, inputs: list[fx.Node]) -> None:
        value = max((self.values[n] for n in inputs), key=lambda v: len(v.work))
        if module is not None and spikes(module) and value.work:
            self._open(node, f"{node.name}+", value, nn.Identity())  # pooled currents: a layer without weights spikes
            value = self.values[node]
            self._joins_neurons(node, module, value, node, alone=True)
            return
        if self._joins_neurons(node, module, value, inputs[0]):
            self.values[node] = _Value(value.sources, (), node)
            return
        self.values[node] = _Value(value.sources, (*value.work, node), value.base)
        if _readers(node) > 1 and not _is_size(node):
            self._junction(node, self.values[node])

    def _joins_neurons(
        self, node: fx.Node, module: nn.Module | None, value: _Value, before: fx.Node, alone: bool = False
    ) -> bool:
        """Take a node in among the neurons of the layer it follows, if it keeps the shape and is its only reader."""
        only = alone or len(before.users) == 1
        if module is None and "dropout" in _name(node):
            raise ConversionError(f"{self._place(node)} draws a new mask in every pass; use nn.Dropout.")
        if len(value.sources) != 1 or value.work or not only or value.sources[0] in self.after:
            return False
        layer = value.sources[0]
        draft = self.drafts[layer]
        if module is not None and is_foreign(module):
            stand = stand_for(str(node.target), module, self.steps)
            draft.spiking = draft.spiking or stand.spiking
            if stand.neurons is not None:
                draft.neurons.append(stand.neurons)
            if stand.rounding is not None:
                self.after[layer] = stand.rounding
            return True
        if module is not None and isinstance(module, (*_ACTIVATIONS, *NORMS, nn.Dropout, nn.Identity)):
            draft.neurons.append(self.own(module))
            return True
        if module is None and _name(node) in _ELEMENTWISE:
            draft.neurons.append(self.as_module(before, (node,)))
            return True
        return False

    def _constant(self, node: fx.Node) -> None:
        owner: Any = self.root
        for part in str(node.target).split("."):
            owner = getattr(owner, part)
        if isinstance(owner, nn.Parameter) and owner.requires_grad:
            raise ConversionError(
                f"the parameter {node.target} is used directly; freeze it with requires_grad_(False), or put it into a "
                "module with a local update."
            )

    def _check_output(self, node: fx.Node) -> None:
        """Raise ConversionError unless the answer is that of the last layer."""
        answer = node.args[0]
        if isinstance(answer, (tuple, list)):  # a spiking output: (spikes, potential)
            answer = answer[0]
        if not isinstance(answer, fx.Node) or answer not in self.values:
            raise ConversionError(
                f"the forward returns {type(answer).__name__}; a network returns one tensor of logits."
            )
        value = self.values[answer]
        if value.work or value.sources != (len(self.drafts) - 1,) or isinstance(self.drafts[-1].synapses, nn.Identity):
            last = self.used and list(self.used.values())[-1]
            raise ConversionError(
                f"the forward goes on after its last layer with weights ({last or 'there is none'}) up to "
                f"{self._place(answer)}; end it with that layer, and an activation at most."
            )

    def _place(self, node: fx.Node) -> str:
        if node.op == "call_module":
            return f"{node.target} ({type(self.modules[str(node.target)]).__name__})"
        where = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
        return f"{_name(node)} in {where[-1]}" if where and where[-1] else _name(node)

    def network(self) -> Network:
        """The layers, made."""
        spiking = any(draft.spiking for draft in self.drafts)
        layers = []
        for i, draft in enumerate(self.drafts):
            over_time, prepare = spiking, draft.prepare
            if spiking and i == len(self.drafts) - 1 and not draft.neurons and _is_linear(prepare):
                over_time = False  # a linear readout may read the rate of what spikes rather than every step
                prepare = nn.Sequential(Rate(), *([] if isinstance(prepare, nn.Identity) else [prepare]))
            own = [as_over_time(m) if over_time else m for m in draft.neurons]
            neurons = own[0] if len(own) == 1 else nn.Sequential(*own)
            decode = Rate() if over_time else None
            layers.append(Layer(draft.synapses, neurons if draft.neurons else None, prepare, decode, draft.name))
        sources = [draft.sources or None for draft in self.drafts]
        return Network(layers, Repeat(self.steps) if spiking and self.steps else None, sources)


def _is_linear(prepare: nn.Module) -> bool:
    return all(isinstance(m, (nn.Sequential, nn.Identity, nn.Flatten, nn.AvgPool2d)) for m in prepare.modules())


def _name(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))


def _readers(node: fx.Node) -> int:
    return sum(not _is_size(user) for user in node.users)


def _is_size(node: fx.Node) -> bool:
    """Whether a node is a number, or numbers, of a tensor's shape."""
    if _name(node) == "getitem":
        return isinstance(node.args[0], fx.Node) and _is_size(node.args[0])
    return _name(node) in ("size", "dim", "numel") or (_name(node) == "getattr" and node.args[1:] == ("shape",))
