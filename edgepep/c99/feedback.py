"""The feedback of a trained rule as (key, bound), from which a device draws the same values again."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from edgepep import noise
from edgepep.errors import ExportError
from edgepep.feedback import Feedback, key_of
from edgepep.rule import Rule


class Drawn(NamedTuple):
    """F[c, i] is the signed upper 24 bits of hash(key, c * values + i), times bound."""

    key: int
    bound: float


def drawn(rule: Rule) -> dict[str, Drawn]:
    """Find how a rule's feedback is drawn: PEPITA's "F", or the map of each layer, "D0"; nothing if it has none.

    Raises:
        ExportError: for feedback that is not drawn from its seed, or options of the rule that the kernels leave out.

    """
    known: Any = rule
    for option, value in _PLAIN.items():
        given = getattr(known, option, value)
        if given != value:
            raise ExportError(f"the rule has {option}={given!r}; in C it is {value!r}.")
    if hasattr(known, "projection"):
        return {"F": drawn_by(known.projection)}
    maps = getattr(known, "feedback", None)
    return {f"D{i}": drawn_by(own) for i, own in maps.items()} if isinstance(maps, nn.ModuleDict) else {}


_PLAIN = {
    "variant": "standard",
    "output_error": "first",
    "presynaptic": "second",
    "adversarial": 0.0,
    "limit": 0.0,
    "form": "full",
    "sign": False,
}
"""Options of rules, and their values in C."""


def drawn_by(own: nn.Module) -> Drawn:
    """Find how one tensor of feedback is drawn.

    Raises:
        ExportError: if it is not drawn from its seed.

    """
    if not isinstance(own, Feedback) or own.storage not in ("float", "seed"):
        kept = own.storage if isinstance(own, Feedback) else type(own).__name__
        raise ExportError(
            f"the feedback is kept as {kept!r}; in C it is drawn from its seed: storage 'float' or 'seed'."
        )
    if getattr(own, "wanted", None):
        raise ExportError("the strength of the modulation has not been reached yet: train the rule for a step first.")
    key = key_of(own.seed, own.place)
    return Drawn(int(key) % 2**32, _bound(own, key))


def _bound(own: Feedback, key: torch.Tensor) -> float:
    """The factor, as a 32-bit float, that gives the values that are used."""
    if own.storage == "seed":
        return float(torch.tensor(float(own.bound) / 2**23, dtype=torch.float32))
    values = own().detach().cpu().flatten()
    integers = (noise.bits(values.shape, key.cpu()) >> 8).to(torch.float32)
    factor = values[integers.abs().argmax()] / integers[integers.abs().argmax()]
    near = torch.stack([torch.nextafter(factor, factor - 1), factor, torch.nextafter(factor, factor + 1)])
    off = (integers * near.unsqueeze(1) - values).abs().amax(1) / values.abs().amax().clamp_min(1e-30)
    if off.min() > 1e-5:
        raise ExportError("the feedback is not what its seed gives: it was changed by hand, and cannot be drawn again.")
    return float(near[off.argmin()])
