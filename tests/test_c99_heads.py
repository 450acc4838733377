"""Local heads in C: every kind of head, what a device keeps of it, and that a device learns by it."""

import ctypes
import math

import pytest
import torch
from torch import nn

from edgepep import ExportError, InPlaceSGD, Layer, Network, datasets, load
from edgepep.c99 import plan, read
from edgepep.c99.blob import write
from edgepep.c99.host import compiler
from edgepep.neurons.normalise import Normalise
from tests.c99_networks import exported, made, ruled, stepped

compiled = pytest.mark.skipif(
    compiler() is None, reason="there is no C compiler here (install gcc, or name one in $CC)"
)
RATE = 0.1


def silenced(kind):
    """A network in which whole windows are silent, where a second pass may wake what f' never would."""
    network, x, y = made(kind)
    with torch.no_grad():
        network.chain[0].synapses.bias.fill_(-0.6)
    return network, x, y


@compiled
@pytest.mark.parametrize(
    "options",
    [
        {"credit": "second_pass", "strength": 2.0},
        {"credit": "second_pass", "strength": 2.0, "pool": "mean"},
        {"pool": "mean", "cells": 1},
        {"feedback": "random", "cells": 2},
        {"feedback": "random", "storage": "seed"},
        {"feedback": "fixed", "credit": "second_pass"},
        {"storage": "seed"},
    ],
)
@pytest.mark.parametrize("kind", ["mlp", "conv", "residual", "normed"])
def test_every_kind_of_head_learns_as_in_torch(kind, options, tmp_path):
    network, x, y = silenced(kind) if kind == "conv" else made(kind)
    rule = ruled(network, x, "local_heads", **options)
    planned, host = exported(network, x, y, rule, tmp_path / "c")
    for sample, target in zip(x, y.tolist(), strict=True):
        host.learn(sample, target, RATE)
    ours = stepped(rule, x, y, RATE)
    theirs, *_ = made(kind)
    its = ruled(theirs, x, "local_heads", **options)
    assert read(theirs, x, host.save(), its) == len(x)
    for mine, other in zip(ours.network.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(other, mine, atol=1e-5, rtol=1e-5)
    for place, head in ours.heads.items():
        torch.testing.assert_close(its.heads[place].way(), head.way(), atol=1e-5, rtol=1e-5)
        if not head.fixed:
            torch.testing.assert_close(its.heads[place].weights, head.weights, atol=1e-5, rtol=1e-5)
            assert head.weights.any()
    before = network.chain[int(place)].synapses.weight
    assert not torch.equal(before, ours.network.chain[int(place)].synapses.weight)
    assert host.touched(x[0], 0, RATE) == planned.arena == 4 * planned.learn[1].used


@compiled
@pytest.mark.parametrize("storage", ["float", "seed"])
def test_heads_go_to_torch_and_back(storage, tmp_path):
    network, x, y = made("conv")
    rule = ruled(network, x, "local_heads", storage=storage)
    _, host = exported(network, x, y, rule, tmp_path / "c")
    for sample, target in zip(x, y.tolist(), strict=True):
        host.learn(sample, target, RATE)
    kept = host.save()
    with pytest.raises(ExportError, match="those of local_heads need the rule"):
        read(network, x, kept)
    read(network, x, kept, rule)
    write(network, x, tmp_path / "again.bin", rule)
    again = (tmp_path / "again.bin").read_bytes()
    assert len(again) == len(kept)
    host.load(again)
    moved = [a != b for a, b in zip(memoryview(kept[20:-4]).cast("I"), memoryview(again[20:-4]).cast("I"), strict=True)]
    assert sum(moved) <= 2  # the bounds, which torch keeps as what they make


@compiled
def test_a_mirror_that_has_decayed_is_drawn_again_as_it_is(tmp_path):
    network, x, y = made("mlp")
    rule = ruled(network, x, "local_heads", decay=0.001)
    InPlaceSGD(network, 0.01)
    for _ in range(2000):
        rule(x, y)
    gap, drawn = rule.heads["0"].gap, ruled(network, x, "local_heads").heads["0"].gap
    assert gap.norm() / drawn.norm() == pytest.approx(0.999**2000, rel=1e-3)
    assert plan(network, x, rule).stages[0].head.feedback.bound == pytest.approx(
        float(gap.abs().max() / drawn.abs().max())
        * plan(network, x, ruled(network, x, "local_heads")).stages[0].head.feedback.bound,
        rel=1e-3,
    )
    gap[0, 0] = 7
    with pytest.raises(ExportError, match="changed by hand"):
        plan(network, x, rule)


@compiled
@pytest.mark.parametrize("storage", ["float", "seed"])
def test_a_mirror_that_has_decayed_to_nothing_is_written(storage, tmp_path):
    network, x, y = made("mlp")
    rule = ruled(network, x, "local_heads", decay=0.5, storage=storage)
    InPlaceSGD(network, 0.01)
    for _ in range(200):
        rule(x, y)
    _, host = exported(network, x, y, rule, tmp_path / "c")
    assert host.learn(x[0], 0, RATE) in range(3)


@compiled
def test_a_mirror_that_begins_equal_to_its_head(tmp_path):
    network, x, y = made("mlp")
    rule = ruled(network, x, "local_heads", feedback_scale=0.0, storage="seed")
    _, host = exported(network, x, y, rule, tmp_path / "c")
    for sample, target in zip(x, y.tolist(), strict=True):
        host.learn(sample, target, RATE)
    ours = stepped(rule, x, y, RATE)
    read(network, x, host.save(), rule)
    for mine, its in zip(ours.parameters(), rule.parameters(), strict=True):
        torch.testing.assert_close(its, mine, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(rule.heads["0"].way(), ours.heads["0"].way(), atol=1e-6, rtol=1e-5)


@compiled
@pytest.mark.parametrize("value", [0.0, 0.3, 127.3])
def test_an_even_input_is_normalised_to_next_to_nothing(value, tmp_path):
    layers = [Layer(nn.Linear(3072, 3), None, Normalise("layer"))]
    network, x = Network(layers), torch.full((1, 3072), value)
    _, host = exported(network, x, torch.zeros(1), None, tmp_path / "c")
    ours = host.infer(x[0]) - network.chain[0].synapses.bias
    exact = network.double()(x.double()).detach()[0] - network.chain[0].synapses.bias
    assert (ours - exact).abs().max() < 0.05
    bright = x + torch.linspace(-1, 1, 3072)
    assert (host.infer(bright[0]) - network(bright.double())[0]).abs().max() < 1e-4


def test_what_heads_cannot_be_in_c_is_refused():
    network, x, _ = made("mlp")
    for feedback in ("kolen_pollack", "random"):
        with pytest.raises(ExportError, match="kept as 'int8'"):
            plan(network, x, ruled(network, x, "local_heads", feedback=feedback, storage="int8"))


@compiled
def test_a_layer_that_rests_keeps_its_head(tmp_path):
    network, x, y = made("mlp")
    rule = ruled(network, x, "local_heads")
    planned, host = exported(network, x, y, rule, tmp_path / "c", rates={"0": 0.0})
    assert planned.weights < plan(network, x, rule).weights
    for sample, target in zip(x, y.tolist(), strict=True):
        host.learn(sample, target, RATE)
    first = network.chain[0].synapses.weight.clone()
    read(network, x, host.save(), rule)
    assert torch.equal(first, network.chain[0].synapses.weight)
    assert not rule.heads["0"].weights.any()
    assert rule.heads["1"].weights.any()


@compiled
def test_the_inverse_root(tmp_path):
    network, x, y = made("mlp")
    _, host = exported(network, x, y, None, tmp_path / "c")
    host.library.ep_rsqrt.restype = ctypes.c_float
    for i in range(-80, 380):
        at = ctypes.c_float(1.26**i * 1e-8)
        if math.isfinite(at.value):
            assert host.library.ep_rsqrt(at) == pytest.approx(at.value**-0.5, rel=3e-7)


def test_the_arena_does_not_grow_with_depth():
    sizes = {}
    for name in ("cifar10-fc-best", "cifar10-fc5-best"):
        recipe = load(name)
        for rule in ("local_heads", "pepita", "backprop"):
            network = recipe.under(rule).build()
            sizes[name, rule] = plan(network, torch.rand(1, 3, 32, 32), recipe.make_rule(network, rule)).arena
    assert sizes["cifar10-fc5-best", "local_heads"] == sizes["cifar10-fc-best", "local_heads"]
    assert sizes["cifar10-fc5-best", "pepita"] > 2 * sizes["cifar10-fc5-best", "local_heads"]
    assert sizes["cifar10-fc5-best", "backprop"] > 3 * sizes["cifar10-fc5-best", "local_heads"]


@compiled
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_device_learns_by_its_heads_sample_by_sample(precision, tmp_path):
    recipe = load("digits-fc").but(
        network={
            "layers": [
                {"prepare": ["flatten", "layernorm"], "synapses": "none", "neurons": "identity"},
                {"synapses": "linear", "features": 32},
                {"prepare": ["rmsnorm"], "synapses": "linear", "features": 32},
                {"prepare": ["rmsnorm"], "synapses": "linear", "features": "classes"},
            ]
        }
    )
    train, test = datasets.load("digits", True), datasets.load("digits", False)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    x, labels = train.take(order)
    shown, answers = test.take(slice(0, len(test)))
    right = {}
    for name in ("local_heads", "last_layer"):
        network = recipe.build(0)
        planned, host = exported(
            network, x[:2], labels[:2], recipe.make_rule(network, name), tmp_path / name, precision=precision
        )
        for sample, label in zip(x, labels.tolist(), strict=True):
            host.learn(sample, label, 0.02)
        right[name] = sum(int(host.infer(s).argmax()) == a for s, a in zip(shown, answers.tolist(), strict=True))
        assert planned.precision == precision
    print(right, len(test))
    assert right["local_heads"] > right["last_layer"] + 0.02 * len(test)
