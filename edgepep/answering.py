"""A recipe's words for what answers a current: normalisation, neurons, dropout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from edgepep import spiking
from edgepep.neurons import Dropout
from edgepep.normalisation import Norm
from edgepep.time_axis import EachStep

if TYPE_CHECKING:
    from edgepep.models import Recipe
    from edgepep.tables import LayerTable


def neurons(recipe: Recipe, table: LayerTable, current: Tensor, *, last: bool, first: bool, seed: int) -> nn.Module:
    """What a recipe's layer answers to the current of its synapses.

    Args:
        recipe: whose neurons and time count where the layer names none.
        table: the layer's.
        current: an example of it, [batch, ...], or over time [time, batch, ...].
        last: whether the layer is the output, which only passes on.
        first: whether it reads the data: its current is used again in a second pass.
        seed: of dropout.

    """
    over_time = recipe.time is not None and not last
    parts = [_batch_norm(current, over_time)] if table.norm else []
    parts.append(_neurons(recipe, table, current, last, first))
    if table.dropout and not last:
        parts.append(Dropout(table.dropout, seed, over_time))
    return nn.Sequential(*parts) if len(parts) > 1 else parts[0]


def _neurons(recipe: Recipe, table: LayerTable, current: Tensor, last: bool, first: bool) -> nn.Module:
    word = table.neurons or recipe.network.neurons
    if last or word == "identity":
        return nn.Identity()
    if recipe.time:
        return spiking.neurons(recipe.time, current)
    return nn.ReLU(inplace=not first) if word == "relu" else nn.Tanh()


def _batch_norm(current: Tensor, over_time: bool) -> nn.Module:
    shape = current.shape[2 if over_time else 1 :]
    kind = nn.BatchNorm1d if len(shape) == 1 else nn.BatchNorm2d
    norm = Norm(kind(shape[0]))
    return EachStep(norm) if over_time else norm
