"""State as plain data: nested tables and lists of numbers, words and tensors, to and from JSON and a list of tensors.

What a file may ask for is in one closed table of containers. No name of a class, function or module is ever looked up.
"""

from __future__ import annotations

import json
import math
from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from edgepep.errors import RunError

_CONTAINERS: dict[str, Any] = {"dict": dict, "Counter": Counter, "OrderedDict": OrderedDict, "tuple": tuple}
_NAMES = {kind: name for name, kind in _CONTAINERS.items()}


def pack(state: Any, place: str = "state") -> tuple[bytes, dict[str, Tensor]]:
    """JSON, and the tensors that it speaks of, copied to the CPU.

    Raises:
        RunError: if something in the state is none of the kinds that can be kept; the message says where.

    """
    tensors: dict[str, Tensor] = {}
    return json.dumps(_packed(state, place, tensors), separators=(",", ":")).encode(), tensors


def unpack(text: bytes, tensors: Mapping[str, Tensor]) -> Any:
    """The state that `pack` was given, its tensors on the CPU.

    Raises:
        RunError: if it is not of the form that `pack` writes.

    """
    try:
        return _unpacked(json.loads(text), tensors)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise RunError(f"the state is not of a known form: {type(error).__name__}: {error}.") from error


def not_finite(state: Any, place: str = "") -> str:
    """Where the first number that is not finite stands in nested tables of floats and tensors, or nothing."""
    if isinstance(state, Tensor):
        bad = state.is_floating_point() and not bool(state.isfinite().all())
        return place if bad else ""
    if isinstance(state, float):
        return "" if math.isfinite(state) else place
    if isinstance(state, (list, tuple)):
        state = dict(enumerate(state))
    items = state.items() if isinstance(state, Mapping) else ()
    return next((found for key, value in items if (found := not_finite(value, f"{place}.{key}".lstrip(".")))), "")


def _packed(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Tensor):
        name = f"{len(tensors)} {place}"
        tensors[name] = torch.empty(value.shape, dtype=value.dtype).copy_(value.detach())
        return {"tensor": name}
    if type(value) is list:
        return [_packed(item, f"{place}.{i}", tensors) for i, item in enumerate(value)]
    if type(value) is tuple:
        return {"tuple": [_packed(item, f"{place}.{i}", tensors) for i, item in enumerate(value)]}
    if type(value) in _NAMES and all(type(key) in (str, int) for key in value):
        return {_NAMES[type(value)]: [[k, _packed(v, f"{place}.{k}", tensors)] for k, v in value.items()]}
    raise RunError(
        f"{place} is a {type(value).__name__}, which no file of a run can hold; a state is made of numbers, words, "
        "tensors, lists, tuples and tables with words or whole numbers as keys."
    )


def _unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpacked(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((name, inner),) = value.items()
    if name == "tensor":
        return tensors[inner]
    if not isinstance(inner, list):
        raise ValueError(f"{name} of a {type(inner).__name__}")
    if name == "tuple":
        return tuple(_unpacked(item, tensors) for item in inner)
    made = _CONTAINERS[name]()
    for key, item in inner:
        if type(key) not in (str, int):
            raise ValueError(f"a key is a {type(key).__name__}")
        made[key] = _unpacked(item, tensors)
    return made


def check_like(given: Any, fresh: Any, place: str = "state") -> None:
    """Raise RunError unless a state has the tables, kinds and shapes of another one.

    Lists may differ in length, and numbers in value.
    """
    if isinstance(fresh, Tensor) and isinstance(given, Tensor):
        if (given.shape, given.dtype) != (fresh.shape, fresh.dtype):
            have, want = (f"{t.dtype} {list(t.shape)}" for t in (given, fresh))
            raise RunError(f"{place} is {have}, not {want}.")
    elif isinstance(fresh, Mapping) and isinstance(given, Mapping):
        if given.keys() != fresh.keys():
            odd = sorted(map(str, given.keys() ^ fresh.keys()))
            raise RunError(f"{place} has other entries; they differ in {', '.join(odd[:3])}.")
        for key in fresh:
            check_like(given[key], fresh[key], f"{place}.{key}")
    elif isinstance(fresh, (list, tuple)) and type(given) is type(fresh):
        for i, (a, b) in enumerate(zip(given, fresh, strict=False)):
            check_like(a, b, f"{place}.{i}")
    elif type(given) is not type(fresh) and {type(given), type(fresh)} != {int, float}:
        raise RunError(f"{place} is a {type(given).__name__}, not a {type(fresh).__name__}.")
