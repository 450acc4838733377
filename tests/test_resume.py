"""A run that is interrupted and gone on with ends where it would have ended: every rule, on every kind of network."""

import functools
import json
import math
import shutil

import pytest
import torch

from edgepep import Diagnostics, EdgepepError, InPlaceSGD, RunError, checkpoint, datasets, load, plugins, rules, states
from edgepep.datasets import Data
from edgepep.keeper import Policy
from edgepep.loop import Loop
from edgepep.training import prepare, train

NAMES = plugins.in_package(rules)
HIDDEN = {"synapses": "linear", "features": 24, "prepare": ["flatten"]}
WAYS = {
    "plain": {},
    "dropout": {"network": {"layers": [HIDDEN | {"dropout": 0.3}, {"synapses": "linear"}]}},
    "integer weights": {"quantized": {"weights": "integer"}},
    "quantized": {"quantized": {"weight_bits": 8}},
    "spiking": {"spiking": {"steps": 4, "code": "poisson"}},
}


@functools.cache
def some(train: bool = True) -> Data:
    data = datasets.load("digits", train)
    return Data("digits", data.inputs[:150], data.labels[:150], 10)


def make_loop(name: str, way: str = "plain", **more) -> Loop:
    """A loop at its beginning: two epochs of five steps, the last of them short."""
    rates = {"learning_rate": 0.02, "momentum": 0.9, "weight_decay": 1e-3, "decay_epochs": [1]}
    small = {"layers": [HIDDEN, {"synapses": "linear"}]}
    recipe = load("digits-fc").but(**({"network": small, "training": rates} | WAYS[way]))
    rule, optimizer, scheduler = prepare(recipe, name, 0, some(), "cpu")
    return Loop(rule, some(), optimizer, epochs=2, batch_size=32, scheduler=scheduler, test=some(False), **more)


class Left(Exception):
    """Ends a loop as a signal would."""


def run_to(loop: Loop, step: int) -> None:
    def leave(outcome) -> None:
        if loop.done == step:
            raise Left

    loop.after_step = leave
    with pytest.raises(Left):
        list(loop.run())


def same(a, b, place="state") -> None:
    """The same tables, numbers and tensors, bit for bit; a NaN is a NaN."""
    assert type(a) is type(b), place
    if isinstance(a, torch.Tensor):
        assert (a.shape, a.dtype) == (b.shape, b.dtype), place
        assert a.detach().numpy().tobytes() == b.detach().numpy().tobytes(), place
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), place
        for key in a:
            if key != "seconds":
                same(a[key], b[key], f"{place}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), place
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{place}.{i}")
    else:
        assert a == b or (math.isnan(a) and math.isnan(b)), place


def without_seconds(state: dict) -> dict:
    return state | {"history": [row[:4] for row in state["history"]]}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
def test_every_rule_goes_on_bit_for_bit(name, way, tmp_path):
    try:
        whole = make_loop(name, way)
        list(whole.run())
    except EdgepepError as error:
        pytest.skip(f"the rule refuses such a network: {error}")
    broken, again = make_loop(name, way), make_loop(name, way)
    run_to(broken, 8)  # in the middle of the second epoch
    states.write(tmp_path, 8, broken.state_dict())
    again.load_state_dict(states.read(states.found(tmp_path)[0], 1 << 24))
    same(again.state_dict(), broken.state_dict())
    list(again.run())
    same(without_seconds(again.state_dict()), without_seconds(whole.state_dict()))
