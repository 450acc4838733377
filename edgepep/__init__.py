"""edgepep: train networks without a backward pass, count what it costs, and take them to the edge.

Names are loaded when first used, so that `edgepep --help` does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgepep.composite import PerLayer
    from edgepep.conversion import convert
    from edgepep.diagnostics import Diagnostics, diagnose
    from edgepep.errors import (
        ConversionError,
        DataError,
        DivergenceError,
        EdgepepError,
        ExportError,
        RecipeError,
        RunError,
        StateError,
        Stopped,
        UnknownName,
    )
    from edgepep.models import Recipe, load
    from edgepep.network import Activity, Layer, Network
    from edgepep.neurons import (
        Alpha,
        Dropout,
        Frames,
        Lapicque,
        Latency,
        Leaky,
        Poisson,
        Rate,
        Repeat,
        RLeaky,
        Spiking,
        Synaptic,
        Trace,
    )
    from edgepep.profiling import profile
    from edgepep.rule import Outcome, Rule
    from edgepep.training import evaluate, fit, train
    from edgepep.updater import InPlaceSGD

__version__ = "0.1.0"

_HOMES = {
    "composite": "PerLayer",
    "conversion": "convert",
    "diagnostics": "Diagnostics diagnose",
    "errors": "ConversionError DataError DivergenceError EdgepepError ExportError RecipeError RunError StateError "
    "Stopped UnknownName",
    "models": "Recipe load",
    "network": "Activity Layer Network",
    "neurons": "Alpha Dropout Frames Lapicque Latency Leaky Poisson RLeaky Rate Repeat Spiking Synaptic Trace",
    "profiling": "profile",
    "rule": "Outcome Rule",
    "training": "evaluate fit train",
    "updater": "InPlaceSGD",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = [  # noqa: RUF022 - in the order in which a newcomer meets them
    "load",
    "Recipe",
    "Network",
    "Layer",
    "Activity",
    "convert",
    "Rule",
    "PerLayer",
    "Outcome",
    "InPlaceSGD",
    "fit",
    "train",
    "evaluate",
    "profile",
    "Diagnostics",
    "diagnose",
    "Leaky",
    "Synaptic",
    "Alpha",
    "RLeaky",
    "Lapicque",
    "Spiking",
    "Repeat",
    "Poisson",
    "Latency",
    "Frames",
    "Rate",
    "Trace",
    "Dropout",
    "EdgepepError",
    "UnknownName",
    "RecipeError",
    "ConversionError",
    "DataError",
    "DivergenceError",
    "ExportError",
    "RunError",
    "StateError",
    "Stopped",
]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'edgepep' has no attribute {name!r}")
    return getattr(import_module(f"edgepep.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
