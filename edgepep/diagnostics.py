"""How well a rule's credit agrees with the exact gradient, layer by layer, and what is about to go wrong."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy

from edgepep.credit import weights_of
from edgepep.layer import Layer
from edgepep.local import Gradient, dense_gradient
from edgepep.rule import Rule


class TrainingWarning(UserWarning):
    """Training that is likely to collapse soon."""


@dataclass(frozen=True)
class LayerDiagnosis:
    """One layer's figures; angles in degrees, None where there is nothing to measure."""

    name: str
    feedback_angle: float | None
    """Between the matrix through which its error goes down, M, and its weights W."""
    feedback_ratio: float | None
    """|M| / |W|."""
    update_angle: float | None
    """Between its update and the exact gradient's; below 90 the step goes downhill."""
    update_ratio: float | None
    """|update| / |gradient|."""
    zeros: float | None
    """Share of zeros in the error at its synapses' output."""


@dataclass(frozen=True)
class Diagnosis:
    """Figures of one step."""

    layers: list[LayerDiagnosis]
    modulation: float | None
    """|F e| / |x|, of a rule that modulates the input."""
    risks: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        wide = max(16, *(len(layer.name) + 2 for layer in self.layers))
        rows = [f"{'layer':<{wide}}{'M to W':>9}{'|M|/|W|':>9}{'update':>9}{'ratio':>9}{'zeros':>9}"]
        for layer in self.layers:
            cells = (
                _degrees(layer.feedback_angle),
                _number(layer.feedback_ratio),
                _degrees(layer.update_angle),
                _number(layer.update_ratio),
                "-" if layer.zeros is None else f"{100 * layer.zeros:.1f} %",
            )
            rows.append(f"{layer.name:<{wide}}" + "".join(f"{cell:>9}" for cell in cells))
        if self.modulation is not None:
            rows.append(f"modulation of the input |F e| / |x|: {self.modulation:.4f}")
        return "\n".join(rows + [f"warning: {risk}" for risk in self.risks])


class Diagnostics:
    """A callback for `fit` that measures the rule on some batches, warns in time, and keeps what it measured.

    It changes nothing: weights, feedback and noise after the step are those of a run without it. It costs about three
    steps each time.

    Args:
        every: steps between two measurements.

    """

    def __init__(self, every: int = 100) -> None:
        self.every, self.history = every, list[tuple[int, Diagnosis]]()
        self._said: set[str] = set()
        self._step = 0

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to measure and warn as an uninterrupted one; `history` is not kept."""
        return {"step": self._step, "said": sorted(self._said)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another one stopped."""
        self._step, self._said = state["step"], set(state["said"])

    def __call__(self, rule: Rule, x: Tensor, target: Tensor, samples: Tensor | None = None) -> None:
        """Measure, if it is time to."""
        self._step += 1
        if (self._step - 1) % self.every:
            return
        found = diagnose(rule, x, target, samples)
        self.history.append((self._step, found))
        for risk in found.risks:
            kind = risk.split(":")[0]
            if kind not in self._said:
                self._said.add(kind)
                warnings.warn(f"step {self._step}: {risk}", TrainingWarning, stacklevel=2)


def diagnose(rule: Rule, x: Tensor, target: Tensor, samples: Tensor | None = None) -> Diagnosis:
    """Measure one step of a rule without taking it.

    Args:
        rule: with its network; both are as before afterwards.
        x: inputs [batch, ...].
        target: class indices [batch].
        samples: which samples these are, for rules that remember them.

    """
    chain = rule.network.chain
    with _undone(rule):
        exact = _gradients(rule, x, target)
        risks, modulation = rule.risks(x, target), rule.modulation(x, target)
        matrices = {i: m.clone() for i, m in rule.feedback_matrices().items()}
    with _undone(rule), _recorded(chain) as (recorder, zeros):
        rule.samples = samples
        rule.learn(x, target)
    layers = []
    for i, layer in enumerate(chain):
        if not layer.learns:
            continue
        weight = layer.synapses.weight
        made, wanted = recorder.sums.get(weight), exact.get(weight)  # type: ignore[call-overload]
        matrix = matrices.get(i)
        layers.append(
            LayerDiagnosis(
                layer.name,
                None if matrix is None else _angle(matrix, weights_of(layer)),
                None if matrix is None else float(matrix.norm() / weights_of(layer).norm()),
                None if made is None or wanted is None else _angle(made, wanted),
                None if made is None or wanted is None else float(made.norm() / wanted.norm().clamp_min(1e-30)),
                zeros.get(layer),
            )
        )
    return Diagnosis(layers, modulation, risks)


class _Recorder:
    """Stands where an updater stands, and adds up what it is given."""

    follow = True

    def __init__(self) -> None:
        self.sums: dict[nn.Parameter, Tensor] = {}

    def apply(self, parameter: nn.Parameter, gradient: Gradient, scale: float = 1.0) -> None:
        change = dense_gradient(gradient).detach() * scale
        self.sums[parameter] = self.sums[parameter] + change if parameter in self.sums else change

    def response(self, weight: Tensor, rows: Tensor) -> Tensor:
        return rows @ weight.t()


@contextmanager
def _recorded(chain: tuple[Layer, ...]) -> Iterator[tuple[_Recorder, dict[Layer, float]]]:
    """Let layers hand their updates to a recorder, and note the share of zeros in their errors."""
    recorder, zeros = _Recorder(), dict[Layer, float]()
    updaters = [layer.updater for layer in chain]

    def noting(layer: Layer) -> Any:
        def learn(pre: Tensor, delta: Tensor, scale: float = 1.0) -> None:
            zeros[layer] = float((delta == 0).float().mean())
            Layer.learn(layer, pre, delta, scale)

        return learn

    for layer in chain:
        layer.updater = recorder  # type: ignore[assignment]
        object.__setattr__(layer, "learn", noting(layer))
    try:
        yield recorder, zeros
    finally:
        for layer, updater in zip(chain, updaters, strict=True):
            layer.updater = updater
            object.__delattr__(layer, "learn")


@contextmanager
def _undone(rule: Rule) -> Iterator[None]:
    """Put back what a step changes: state, gradients, samples."""
    state = {key: value.clone() for key, value in rule.state_dict(keep_vars=False).items()}
    grads = {p: p.grad for p in rule.parameters()}
    samples = rule.samples
    delayed = {m: m.delayed for m in rule.modules() if hasattr(m, "delayed")}
    for p in grads:
        p.grad = None
    try:
        yield
    finally:
        rule.samples = samples
        for module, rows in delayed.items():  # as many rows as samples were seen
            module.delayed = rows
        for layer in rule.network.chain:
            layer.forget()
        with torch.no_grad():
            for key, value in rule.state_dict(keep_vars=False).items():
                if not torch.equal(value, state[key]):  # untouched tensors keep their version, which others watch
                    value.copy_(state[key])
        for p, grad in grads.items():
            p.grad = grad


def _gradients(rule: Rule, x: Tensor, target: Tensor) -> dict[nn.Parameter, Tensor]:
    """Exact gradients of the loss, in the weights."""
    weights = [p for layer in rule.network.chain for p in layer.synapses.parameters() if p.requires_grad]
    with torch.enable_grad():
        loss = cross_entropy(rule.network(x), target)
        found = torch.autograd.grad(loss, weights, allow_unused=True)
    return {p: g for p, g in zip(weights, found, strict=True) if g is not None}


def _angle(a: Tensor, b: Tensor) -> float | None:
    if not a.any() or not b.any():
        return None
    cosine = float(cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0))
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))


def _degrees(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
