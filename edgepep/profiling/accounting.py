"""The published accounting of Pau & Aymone 2023, re-derived from a network's layers, and their sheet's own errors.

int8 everywhere, batch 1, no batch normalisation; a pooling or a sum counts one operation an element, a softmax 19 a
class (15 and two conversions of 2); gradients, optimizer state and F take no memory. `exact` applies this to the layers
as they are; `paper` puts back the sheet's input errors, by name, and so gives the published cells.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod

import torch
from torch import nn

from edgepep import datasets
from edgepep.errors import EdgepepError
from edgepep.models import Recipe

PROCEDURES = ("BP", "FF", "PEPITA", "MEMPEPITA")
SOFTMAX = 19


@dataclass(frozen=True)
class Row:
    """One buffer-making operation of the network: a layer with weights, a pooling or a sum."""

    kind: str
    elements: int
    macs: int
    dgrad: int = 0
    wgrad: int = 0
    goodness: int = 0
    reads: int = 0
    """Elements of what it reads."""
    skips: int = 0
    """Elements of a branch that has to wait beside it."""


@dataclass(frozen=True)
class Cells:
    """Multiply-accumulates and bytes of one network under one procedure, for one sample."""

    training_macs: int
    training_activations: int
    inference_macs: int
    inference_ram: int


@dataclass(frozen=True)
class Sheet:
    """What the accounting is made of; the fields after `rows` are what the published sheet got wrong."""

    inputs: int
    outputs: int
    softmax: bool
    parameters: int
    rows: tuple[Row, ...]
    inputs_off: int = 0
    """Elements by which the sheet's input buffer is off."""
    forgotten: int = 0
    """Buffers that the sheet leaves out of the sum of activations."""
    extra_macs: int = 0
    """Operations too many in each of forward pass, backward pass and update."""
    extra_goodness: int = 0
    pair: int | None = None
    """The sheet's two neighbouring buffers, where they are not the largest pair."""
    third: int | None = None
    """What MEMPEPITA holds beside them."""
    errors: tuple[str, ...] = field(default=())

    def cells(self, procedure: str) -> Cells:
        """The figures of "BP", "FF", "PEPITA" or "MEMPEPITA"."""
        plain = sum(row.macs for row in self.rows) + self.extra_macs
        forward = plain + (SOFTMAX * self.outputs if self.softmax else 0)
        backward = sum(row.dgrad for row in self.rows) + self.extra_macs
        update = sum(row.wgrad for row in self.rows) + self.extra_macs
        goodness = 2 * (sum(row.goodness for row in self.rows) + self.extra_goodness)
        pair, again = self.pair or self._pair(), self.third if self.third is not None else self._second()
        summed = self.inputs + self.inputs_off + sum(row.elements for row in self.rows) - self.forgotten
        summed += 4 * self.outputs if self.softmax else 0
        projection = self.outputs * self.inputs
        if procedure == "FF":
            tries = self.outputs if self.softmax else 1
            with_input = pair + self.inputs + self.inputs_off
            # the input has to stay for the next label, where there is one
            again_ram = with_input if tries > 1 else pair
            return Cells(2 * (plain + update + goodness), with_input, tries * (plain + goodness), again_ram)
        training = {
            "BP": forward + backward + update + self.outputs,
            "PEPITA": 2 * forward + update + self.outputs + projection,
            "MEMPEPITA": 3 * forward + update + self.outputs + projection,
        }[procedure]
        return Cells(training, pair + again if procedure == "MEMPEPITA" else summed, forward, pair)

    def _pair(self) -> int:
        """The most that is read and written at once, waiting branches included."""
        return max(row.reads + row.skips + row.elements for row in self.rows)

    def _second(self) -> int:
        """What the second of two passes side by side holds at that moment."""
        row = max(self.rows, key=lambda r: r.reads + r.skips + r.elements)
        return row.reads + row.skips if row.skips else max(row.reads, row.elements)


def exact(recipe: Recipe) -> Sheet:
    """The accounting of a recipe's network, from its layers as they are."""
    network = recipe.build().eval()
    info = datasets.info(recipe.dataset)
    rows: list[Row] = []
    posts: list[int] = []
    with torch.no_grad():
        for i, activity in enumerate(network.stream(torch.zeros(1, *info.shape))):
            layer, sources = network.chain[i], network.sources[i]
            read = posts[sources[0]] if sources else prod(info.shape)
            for module in layer.prepare.modules():
                if isinstance(module, nn.AvgPool2d):
                    rows.append(Row("pool", activity.pre.numel(), read, dgrad=read, reads=read))
                    read = activity.pre.numel()
            out = activity.current.numel()
            if isinstance(layer.synapses, nn.Identity):
                rows.append(Row("sum", out, out, reads=out, skips=out * (len(sources) - 1)))
            else:
                weight: nn.Parameter = layer.synapses.weight  # type: ignore[assignment]
                macs = out * weight[0].numel()
                rows.append(Row("layer", out, macs, macs if i else 0, macs, out, read))
            posts.append(out)
    parameters = sum(p.numel() for p in network.parameters())
    return Sheet(prod(info.shape), info.classes, recipe.name != "autoencoder", parameters, tuple(rows))


def paper(recipe: Recipe) -> Sheet:
    """The published accounting: exact, with the sheet's errors put back.

    Raises:
        EdgepepError: for a network that is not in the sheet.

    """
    if recipe.name not in _ERRORS:
        raise EdgepepError(
            f"accounting 'paper' is of the published networks: {', '.join(_ERRORS)}; for {recipe.name} take 'exact'."
        )
    return replace(exact(recipe), **_ERRORS[recipe.name])  # type: ignore[arg-type]


# By recipe, what differs in the authors' spreadsheet, with its cells.
_ERRORS: dict[str, dict[str, object]] = {
    "ds-cnn": {
        "forgotten": 12,
        "pair": 12096 + 8000,
        "third": 8000,
        "errors": (
            "B34 leaves out the dense output (12)",
            "the pair takes conv1's padded map (12,096) and MEMPEPITA 8,000",
        ),
    },
    "mobilenet": {
        "inputs_off": 1,
        "extra_macs": 126_720,
        "extra_goodness": 14_080 + 510,
        "errors": (
            "T57, T58: the sixth depthwise layer, of stride 2, is taken as 16x16 rather than 6x6",
            "AR70, AR72: the dense layer's goodness is 512 rather than 2",
            "the input is 27,649 rather than 27,648",
        ),
    },
    "resnet8": {
        "inputs_off": 1,
        "forgotten": 4096,
        "errors": ("the input is 3,073 rather than 3,072", "B125 leaves out the third sum (4,096)"),
    },
    "autoencoder": {},
}
