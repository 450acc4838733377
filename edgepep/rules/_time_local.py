"""PEPITA whose two Hebbian products are each applied right after their own pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from edgepep.errors import EdgepepError
from edgepep.network import Activity
from edgepep.rule import Outcome, classes_of, output_error

if TYPE_CHECKING:
    from edgepep.rules.pepita import Pepita


def time_local(rule: Pepita, x: Tensor, target: Tensor) -> Outcome:
    """Hebbian after the first pass, anti-Hebbian after the second, which runs on the changed weights."""
    *hidden, output = rule.network.chain
    if any(layer.learns and layer.updater is None for layer in rule.network.chain):
        raise EdgepepError("variant 'time_local' changes weights between the passes: it needs InPlaceSGD.")
    start: Activity | None = None
    for layer, activity in zip(rule.network.chain, rule.network.stream(x, currents=rule.currents), strict=True):
        start = start or activity
        if layer is not output:
            answer = layer.read(activity.post)
            layer.learn(layer.read(activity.pre), answer, rule.scale(layer, answer))
    logits = rule.network.readout(activity.post)
    output.learn(output.read(activity.pre), logits.softmax(1), 1 / target.shape[0])
    error = output_error(logits, target)
    second = rule.network.modulated(start or activity, rule.feedback, error, fixed=False, changed=True)
    del start, activity
    for layer in hidden:
        pre, _, post = next(second)
        answer = layer.read(post)
        layer.learn(layer.read(pre), answer, -rule.scale(layer, answer))
    label = classes_of(target, logits.shape[1], logits.dtype)
    output.learn(output.read(next(second).pre), label, -1 / target.shape[0])
    return Outcome(logits, target)
