"""Numbers gone wrong: where it began, and what is likely to be the cause."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from edgepep import phases, plain
from edgepep.errors import DivergenceError
from edgepep.layer import Activity, Layer
from edgepep.rule import Outcome, Rule

if TYPE_CHECKING:
    from edgepep.loop import Loop

LOOK_EVERY = 50
"""Steps between two looks at the loss, each of which waits for the device."""


def diverged(loop: Loop, what: str) -> DivergenceError:
    """What to raise when numbers are seen to be wrong, naming the first layer in which they now are."""
    where = _spoiled(loop.rule) or "not in the weights"
    return DivergenceError(
        f"{what} by step {loop.step} of epoch {loop.epoch}: training has diverged ({where}). "
        "Lower the learning rate or the strength of the feedback."
    )


def first_not_finite(rule: Rule) -> str:
    """Name of the first tensor of a rule's state that holds a number that is not finite, or nothing.

    Buffers that a module names in `may_be_nan` are left out.
    """
    free = {
        f"{place}.{name}".lstrip(".")
        for place, module in rule.named_modules()
        for name in getattr(module, "may_be_nan", ())
    }
    return plain.not_finite({name: value for name, value in rule.state_dict().items() if name not in free})


class Replay:
    """Training again from a good state, with a look at every step: a run repeats itself bit for bit.

    Args:
        loop: standing at a state whose numbers are finite; it is run on, and has to be put back afterwards.

    """

    def __init__(self, loop: Loop) -> None:
        self.loop, self.found, self.seen = loop, "", ""

    def find(self, last: int) -> str:
        """Say which number was the first to go wrong, and when; nothing if none does up to a step."""
        loop = self.loop
        kept = loop.after_step, loop.watch, loop.test, loop.between, loop.replayed
        loop.watch = loop.test = loop.between = loop.replayed = None

        def check(outcome: Outcome) -> None:
            if self._look(outcome) or loop.done >= last:
                raise _Enough

        loop.after_step = check
        try:
            with self._hooked():
                for _ in loop.run():
                    pass
        except (_Enough, DivergenceError):
            pass
        finally:
            loop.after_step, loop.watch, loop.test, loop.between, loop.replayed = kept
        return self.found

    def _look(self, outcome: Outcome) -> bool:
        loss = outcome.loss
        where = self.seen or _spoiled(self.loop.rule)
        if not where and not bool(loss.isfinite()):
            where = f"the loss is {float(loss)}"
        if where:
            self.found = f"step {self.loop.step} of epoch {self.loop.epoch}: {where}"
        return bool(where)

    @contextlib.contextmanager
    def _hooked(self) -> Iterator[None]:
        """Note the first activity of a layer that is not finite."""

        def note(layer: Any, given: Any, activity: Activity) -> None:
            if self.seen or not isinstance(layer, Layer):
                return
            for name, value in (("current", activity.current), ("answer", activity.post)):
                if not _finite(value):
                    self.seen = f"the {name} of layer {layer.name} in the {phases.current()} is not finite"
                    return

        hooks = [layer.register_forward_hook(note) for layer in self.loop.rule.network.chain]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


class _Enough(Exception):
    """Ends a replay."""


def likely_cause(loop: Loop) -> str:
    """What measures of a state that is still finite make of it: the rule's risks, else the learning rate.

    The loop has to be put back afterwards.
    """
    rates = ", ".join(sorted({f"{float(group['lr']):g}" for group in loop.optimizer.param_groups}))
    risks: list[str] = []
    modulation: float | None = None
    with contextlib.suppress(Exception):  # it is a guess; what went wrong is said without it
        x, target = loop.data.take(slice(0, loop.batch_size))
        risks, modulation = loop.rule.risks(x, target), loop.rule.modulation(x, target)
    if risks:
        return f"Likely cause: {risks[0]}"
    weak = "" if modulation is None else f"; the modulation |F e| / |x| was {modulation:.2g}, not too strong"
    return f"Likely cause: a learning rate of {rates} is too high{weak}."


def _spoiled(rule: Rule) -> str:
    """The first layer whose weights are not finite, else what else of the rule is not, or nothing."""
    for layer in rule.network.chain:
        for value in layer.state_dict().values():
            if value.is_floating_point() and not _finite(value):
                return f"the weights of layer {layer.name} are not finite"
    other = first_not_finite(rule)
    return f"{other} is not finite" if other else ""


def _finite(value: Tensor) -> bool:
    return not torch.is_floating_point(value) or bool(value.isfinite().all())
