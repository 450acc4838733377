"""What prepares a layer's input, as the C kernels know it: pooling, rounding to a grid, normalisation of the sample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from edgepep.errors import ExportError
from edgepep.fakequant import frozen
from edgepep.layer import Layer
from edgepep.neurons.normalise import Normalise
from edgepep.synapses import Quantiser

Shape = tuple[int, int, int]
"""Channels, height, width; (features, 1, 1) of what is flat."""
Pair = tuple[int, int]

NORMS = {"rms": "rms_norm", "l2": "l2_norm", "layer": "layer_norm"}
"""Kinds of normalisation, and of what prepares by them."""


@dataclass(frozen=True)
class Pool:
    """Pooling of windows that touch but do not overlap, rounding, or normalisation; the last two may be in place."""

    kind: str
    """"max_pool", "mean_pool", "round", or one of the NORMS."""
    shape: Shape
    window: Pair = (1, 1)
    scale: float = 0.0
    """Of a grid."""
    bounds: tuple[float, float] = (0.0, 0.0)
    """The grid's codes."""

    @property
    def out_shape(self) -> Shape:
        """Shape of its answer."""
        channels, height, width = self.shape
        return channels, height // self.window[0], width // self.window[1]

    @property
    def in_place(self) -> bool:
        """Whether its answer may be written over what it reads."""
        return self.kind == "round" or self.kind in NORMS.values()


def pools(layer: Layer, shape: Shape) -> Iterator[Pool]:
    """What prepares a layer's input of some shape.

    Raises:
        ExportError: for what has no kernel.

    """
    inside = {
        inner for m in layer.prepare.modules() if isinstance(m, Quantiser) for inner in m.modules() if inner is not m
    }
    for module in [m for m in layer.prepare.modules() if m not in inside]:
        if isinstance(module, (nn.Sequential, nn.Identity, nn.Flatten)):
            continue
        if isinstance(module, Quantiser):
            pool = _grid(layer.name, module, shape)
        elif isinstance(module, Normalise):
            pool = Pool(NORMS[module.kind], shape)
        else:
            window = _window(layer.name, module, shape)
            pool = Pool("max_pool" if isinstance(module, nn.MaxPool2d) else "mean_pool", shape, window)
        yield pool
        shape = pool.out_shape


def _grid(name: str, module: Quantiser, shape: Shape) -> Pool:
    found = frozen(module.quantise)
    if found is None or found[0].rounding != "round_":
        raise ExportError(
            f"layer {name}: the grid of its {type(module.quantise).__name__} is not known, or not calibrated."
        )
    grid, scale = found
    return Pool("round", shape, scale=scale, bounds=(grid.low, grid.high))


def _window(name: str, module: nn.Module, shape: Shape) -> Pair:
    if isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1)):
        return shape[1:]
    if not isinstance(module, (nn.MaxPool2d, nn.AvgPool2d)):
        raise ExportError(
            f"layer {name} is prepared by {type(module).__name__}; in C there are flatten, max and mean pooling, and "
            "rmsnorm, l2norm and layernorm without learned scale."
        )
    window, stride = _pair(module.kernel_size), _pair(module.stride)
    plain = _pair(module.padding) == (0, 0) and not module.ceil_mode and _pair(getattr(module, "dilation", 1)) == (1, 1)
    if window != stride or not plain or (getattr(module, "divisor_override", None) or 0):
        raise ExportError(
            f"layer {name}: {module} has overlapping, padded or uneven windows; in C they are plain and side by side."
        )
    return window


def _pair(value: Any) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
