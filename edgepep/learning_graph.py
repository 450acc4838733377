"""A rule's training step as a function: from weights and whatever else it changes to their new values.

It is the rule itself that runs, on tensors that stand in for the network's own, so what torch traces of it is the
step that trains in PyTorch.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from edgepep.descent import descend_
from edgepep.errors import ExportError
from edgepep.groups import parameter_groups
from edgepep.local import Factor, Gradient
from edgepep.network import Network
from edgepep.rounding import Velocity
from edgepep.rule import Rule
from edgepep.stand_in import StandIn

VELOCITIES = {"momentum_buffer": "velocity", "velocity_codes": "velocity_codes", "velocity_scale": "velocity_scale"}
"""What an optimizer keeps of a parameter, and what it is called in a state."""


class Settings(NamedTuple):
    """Of the optimizer; the learning rate is the graph's input."""

    momentum: float = 0.0
    weight_decay: float = 0.0
    rates: dict[str, float] | None = None


class Updates:
    """Changes each layer's weights as it learns, as InPlaceSGD does; learning rate and velocities are values.

    Args:
        network: its layers learn through this from now on.
        settings: of the optimizer.

    """

    follow = False

    def __init__(self, network: Network, settings: Settings) -> None:
        self.settings = settings
        self.rate: Factor = 1.0
        self.factors = {
            id(p): group["lr"]
            for group in parameter_groups(network, 1.0, settings.rates or {})
            for p in group["params"]
        }
        self.states: dict[int, dict[str, Tensor]] = {}
        for layer in network.chain:
            layer.updater = self

    def apply(self, parameter: nn.Parameter, gradient: Gradient, scale: Factor = 1.0) -> None:
        """Change one parameter by scale * gradient."""
        place, own = id(parameter), self.settings
        lr = self.rate * self.factors[place]
        state = self.states.setdefault(place, {})
        descend_(parameter, gradient, scale, lr, own.momentum, own.weight_decay, state)

    def response(self, weight: nn.Parameter, rows: Tensor) -> Tensor:
        """Return rows @ weight.T."""
        return rows @ weight.t()


class TrainingStep(nn.Module):
    """One step of a rule as a function of x, target, learning rate and a state.

    The state is what a step changes: weights or codes, counters of random draws, velocities, which begin at zero.

    Args:
        rule: trained or not; it is copied.
        settings: of the optimizer.
        example: a batch of inputs and one of targets, on which a step is tried to see what it changes.

    Raises:
        ExportError: if the rule keeps something that no graph can hold.

    """

    def __init__(self, rule: Rule, settings: Settings, example: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self.rule = copy.deepcopy(rule).cpu().train()
        for layer in self.rule.network.chain:
            layer.channels_last = False  # as in the graph; torch's batch normalisation loses digits where it is not
        self.updates = Updates(self.rule.network, settings)
        self.names = _changed(self.rule, settings, example)
        tensors, changed = _tensors(self.rule), set(self.names)
        self.state = {name: tensors[name].detach().clone() for name in self.names}
        self.learned = {
            name: p
            for name, p in self.rule.named_parameters()
            if id(p) in self.updates.factors and changed & {name, name.removesuffix("weight") + "codes"}
        }
        for name, parameter in self.learned.items():
            for kept, first in _velocity(parameter, settings).items():
                self.state[f"{VELOCITIES[kept]}.{name}"] = first

    def forward(self, x: Tensor, target: Tensor, learning_rate: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Mean loss, logits [batch, classes] before the update, then the new state in the order of the old."""
        new = {name: tensor.clone() for name, tensor in zip(self.state, state, strict=True)}
        swapped: dict[str, Tensor] = {name: new[name] for name in self.names}
        swapped |= {name: p for name, p in self.learned.items() if isinstance(p, StandIn)}  # torch traces copies
        before = dict(self.updates.factors)
        self.updates.rate = learning_rate
        for name, parameter in self.learned.items():
            stands = swapped.get(name)
            place = id(parameter if stands is None else stands.requires_grad_())
            self.updates.factors[place] = before[id(parameter)]
            kept = {key: new.get(f"{word}.{name}") for key, word in VELOCITIES.items()}
            self.updates.states[place] = {key: value for key, value in kept.items() if value is not None}
        try:
            outcome = functional_call(self.rule, swapped, (x, target))
        finally:  # nothing that a trace has made is kept
            self.updates.factors, self.updates.rate = before, 1.0
            self.updates.states.clear()
        return (outcome.loss, outcome.logits, *(tensor.detach() for tensor in new.values()))


class Answer(nn.Module):
    """A network's forward pass as a function of x and of the tensors of a state that are the network's."""

    def __init__(self, step: TrainingStep) -> None:
        super().__init__()
        self.network = copy.deepcopy(step.rule.network).eval()
        self.names = [name for name in step.names if name.startswith("network.")]

    def forward(self, x: Tensor, *state: Tensor) -> Tensor:
        """Logits [batch, classes]."""
        swapped = {name.removeprefix("network."): value for name, value in zip(self.names, state, strict=True)}
        logits: Tensor = functional_call(self.network, swapped, (x,))
        return logits


def _velocity(parameter: nn.Parameter, settings: Settings) -> dict[str, Tensor]:
    """What an optimizer keeps of a parameter before the first step."""
    if not settings.momentum:
        return {}
    if not isinstance(parameter, StandIn):
        return {"momentum_buffer": torch.zeros_like(parameter)}
    kept: dict[str, Tensor] = {}
    Velocity(kept, parameter.synapses.codes)
    return kept


def _changed(rule: Rule, settings: Settings, example: tuple[Tensor, Tensor]) -> list[str]:
    """Names of the parameters and buffers that a step writes to."""
    tried = copy.deepcopy(rule)
    updates = Updates(tried.network, settings)
    updates.rate = 1e-6
    tensors = {n: t for n, t in _tensors(tried).items() if not isinstance(t, StandIn)}
    before = {name: (id(t), t._version, t.detach().clone()) for name, t in tensors.items()}
    with torch.no_grad():
        tried(*example)
    for name, tensor in _tensors(tried).items():
        if name in before and id(tensor) != before[name][0]:
            raise ExportError(f"{type(rule).__name__} puts another tensor in the place of {name}; a graph cannot.")
    return [
        name
        for name, (_, version, value) in before.items()  # torch's batch normalisation writes without counting it
        if tensors[name]._version != version or not torch.equal(tensors[name], value)
    ]


def _tensors(rule: Rule) -> dict[str, Tensor]:
    return dict(rule.named_parameters()) | dict(rule.named_buffers())
