"""The tables of a recipe: their keys, types and ranges, and what is said of a wrong one."""

from __future__ import annotations

import difflib
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from edgepep.errors import RecipeError

MOST = 2**31 - 1
Positive = Annotated[int, Field(gt=0, le=MOST)]
Pair = Annotated[list[Positive], Field(min_length=2, max_length=2)]
"""Height and width."""


class Table(BaseModel):
    """A table of a recipe: no key but these, and of these types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class LayerTable(Table):
    """One layer: what prepares its input, its synapses, its neurons."""

    synapses: Literal["linear", "conv", "none"]
    """"none": a sum of what is read, without weights."""
    features: Positive | Literal["classes"] = "classes"
    reads: list[Annotated[int, Field(ge=0)]] | None = None
    """Numbers of the layers whose answers it adds up; else the one before."""
    kernel: Positive | Pair = 3
    stride: Positive | Pair = 1
    padding: Annotated[int, Field(ge=0, le=MOST)] | Literal["same"] = 0
    """"same": as TensorFlow pads, so that a stride divides the map, rounded up."""
    dilation: Positive = 1
    groups: Positive = 1
    norm: Literal["batch"] | None = None
    """Between synapses and neurons: batch normalisation, whose scale and shift learn under rules that carry the error
    back, and rest under others."""
    neurons: Literal["relu", "tanh", "identity"] | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    prepare: Annotated[list[str], Field(max_length=100)] = []

    @field_validator("prepare")
    @classmethod
    def _known(cls, words: list[str]) -> list[str]:
        from edgepep.synapses import preparation

        for word in words:
            preparation(word)
        return words


class NetworkTable(Table):
    """The layers in order; the last is the output. `neurons` are those of every hidden layer that names none."""

    layers: Annotated[list[LayerTable], Field(min_length=1, max_length=1000)]
    neurons: Literal["relu", "tanh", "identity"] = "relu"
    bias: bool = False
    initialisation: Literal["he_uniform", "orthogonal", "default"] = "he_uniform"
    frozen: list[str] = []
    """Patterns of the names of layers that rest."""


class TrainingTable(Table):
    """How long and how fast to learn."""

    batch_size: Positive = 64
    epochs: Positive = 100
    learning_rate: Annotated[float, Field(gt=0)] = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    decay_epochs: list[Positive] = []
    decay_factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    rates: dict[str, Annotated[float, Field(ge=0)]] = {}
    """Factors of the learning rate, by the pattern of layers' names."""
    without: list[Annotated[int, Field(ge=0)]] | None = None
    """Classes that training does not show; a device may be taught them later."""
    update_noise: Annotated[float, Field(gt=0)] | None = None
    """Standard deviation of Gaussian noise on every update, as a share of the update's root mean square."""
    held_out: Annotated[int, Field(ge=0, le=MOST)] | None = None
    """Samples of the training set that are not trained on, and judge the run in place of the test set; 0 for none."""

    @field_validator("held_out")
    @classmethod
    def _none(cls, samples: int | None) -> int | None:
        return samples or None  # the same recipe, and the same run, as one that does not speak of it


class HeadTable(Table):
    """Another rule for the last layers."""

    rule: str
    layers: Positive = 1


def head_of(text: str) -> dict[str, object]:
    """A head's table from NAME or NAME:LAYERS; NAME may be package.module:Name.

    Raises:
        RecipeError: if it is neither.

    """
    from edgepep import plugins, rules
    from edgepep.outside import is_outside

    rule, colon, layers = text.rpartition(":")
    if not (colon and layers.isdecimal()):
        rule, layers = text, "1"
    first, colon, _ = rule.partition(":")
    if colon and (first in plugins.in_package(rules) or not is_outside(rule)):
        raise RecipeError(
            f"the head is {text!r}; write a rule's name, or NAME:LAYERS with a number of layers. NAME may be "
            "package.module:Name."
        )
    return {"rule": rule, "layers": int(layers)}


class QuantizedTable(Table):
    """Precision of weights and of what each layer reads, in bits."""

    weight_bits: Annotated[int, Field(ge=1, le=8)] = 8
    """1: sign x mean magnitude."""
    activation_bits: Annotated[int, Field(ge=2, le=8)] = 8
    input_bits: Annotated[int, Field(ge=2, le=8)] = 8
    weights: Literal["shadow", "integer"] = "shadow"
    """What is trained: floats behind the codes, or the codes themselves, by stochastic rounding."""
    reach: Annotated[float, Field(gt=0)] | None = None
    """Of integer weights: what the largest code stands for, in He's bounds; else 2."""
    output_reach: Annotated[float, Field(gt=0)] | None = None
    """The last layer's, whose weights grow; else 16."""
    per_channel: bool | None = None
    """A scale for each output channel's weights, rather than one a layer."""
    power_of_two: bool | None = None
    """Scales of weights and activities are powers of two."""

    @property
    def scales(self) -> dict[str, bool]:
        """Options of quantised weights."""
        return {"per_channel": bool(self.per_channel), "power_of_two": bool(self.power_of_two)}

    @model_validator(mode="after")
    def _codes(self) -> QuantizedTable:
        from edgepep.integer_weights import BITS

        if self.weights == "integer" and self.weight_bits not in BITS:
            allowed = ", ".join(map(str, BITS))
            raise ValueError(f'weights = "integer" takes weight_bits of {allowed}, not {self.weight_bits}')
        if self.weights == "integer" and any(self.scales.values()):
            raise ValueError('weights = "integer" have one scale a layer; take away per_channel and power_of_two')
        if self.weights == "shadow" and (self.reach is not None or self.output_reach is not None):
            raise ValueError('reach and output_reach are of weights = "integer"; others take their scale from floats')
        if self.weight_bits == 1 and self.power_of_two:
            raise ValueError("weight_bits = 1 is sign x mean, whose scale is no power of two")
        return self


Share = Annotated[float, Field(ge=0, le=1)]


class SpikingTable(Table):
    """Time steps, code and neurons of a spiking network; the parameters are snnTorch's."""

    steps: Annotated[int, Field(gt=0, le=2**16)] = 25
    """Not used by data that have a time axis of their own."""
    code: Literal["constant", "poisson", "latency", "frames"] = "constant"
    """How data become a current over time; "frames": they have a time axis."""
    neurons: Literal["leaky", "synaptic", "alpha", "lapicque", "rleaky"] = "leaky"
    beta: Share = 0.9
    alpha: Share | None = None
    """Of synaptic and alpha neurons."""
    threshold: Annotated[float, Field(gt=0)] = 1.0
    reset: Literal["subtract", "zero", "none"] = "subtract"
    reset_delay: bool = True
    read: Literal["rate", "trace"] = "rate"
    """What stands for a layer's activity, and what the readout reads."""
    trace_decay: Annotated[float, Field(gt=0, lt=1)] = 0.95
    window: Positive | None = None
    """Steps of time after which the next layer runs; without it as it suits the rule."""
    compiled: bool = False
    """Scan over time by torch.compile."""


class Reported(Table):
    """A published test accuracy in percent, with its place."""

    accuracy: float
    std: float | None = None
    place: str


def explained(error: ValidationError, model: type[BaseModel], file: str, place: tuple[str, ...]) -> RecipeError:
    """Turn pydantic's first complaint into one that names the file, the key, the value and what is allowed."""
    first = error.errors()[0]
    path = [
        part
        for part in first["loc"]
        if not (isinstance(part, str) and part.startswith(("constrained", "literal", "int", "list")))
    ]
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in (*place, *path)).lstrip(".")
    if first["type"] != "extra_forbidden":
        given = "" if first["type"] == "missing" else f" (given: {first['input']!r})"
        return RecipeError(f"{file}: {key}: {first['msg'].removeprefix('Value error, ')}{given}.")
    allowed = sorted(_fields(model, path[:-1]))
    near = difflib.get_close_matches(str(path[-1]), allowed, 1)
    meant = f"; did you mean {near[0]!r}?" if near else "."
    return RecipeError(f"{file}: {key}: there is no such key{meant} Allowed: {', '.join(allowed)}.")


def _fields(model: type[BaseModel], path: list[int | str]) -> list[str]:
    """Keys that are allowed at a place in a recipe."""
    homes: dict[str, type[BaseModel]] = {
        "layers": LayerTable,
        "network": NetworkTable,
        "training": TrainingTable,
        "quantized": QuantizedTable,
        "spiking": SpikingTable,
    }
    for part in path:
        model = homes.get(str(part), model)
    return keys(model)


def keys(model: type[BaseModel]) -> list[str]:
    """Keys of a table, as they are written."""
    return [field.alias or name for name, field in model.model_fields.items()]
