"""Local heads against their equations, written out again by hand in float64."""

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, cross_entropy, max_pool2d, one_hot

from edgepep import EdgepepError, InPlaceSGD, Layer, Network
from edgepep.profiling.observe import observe
from edgepep.rules.local_heads import LocalHeads
from tests.conftest import KINDS, SHAPES, make_batch, make_network, make_shaped

FEEDBACK = ("kolen_pollack", "random", "fixed")


def close(got, want):
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-6)


@pytest.fixture
def small():
    torch.manual_seed(3)
    layers = [Layer(nn.Linear(4, 3, bias=False), nn.ReLU()), Layer(nn.Linear(3, 2, bias=False))]
    return Network(layers).double(), torch.randn(16, 4).double(), torch.randint(2, (16,))


@pytest.mark.parametrize("credit", ["derivative", "second_pass"])
@pytest.mark.parametrize("storage", ["float", "seed"])
@pytest.mark.parametrize("feedback", FEEDBACK)
def test_two_steps_are_the_equations(feedback, storage, credit, small):
    network, x, target = small
    options = {"head_rate": 0.3, "head_momentum": 0.5, "decay": 0.1, "strength": 0.2, "storage": storage}
    rule = LocalHeads(network, x, feedback=feedback, credit=credit, **options)
    head, y = rule.heads["0"], one_hot(target, 2).double()
    back = (head.feedback() if head.feedback is not None else head.gap).clone()
    v = back.clone() if feedback == "fixed" else torch.zeros_like(back)
    velocity, kept = torch.zeros_like(v), 0.9 if feedback == "kolen_pollack" else 1.0
    w1, w2 = (layer.synapses.weight.detach().clone() for layer in network.chain)
    InPlaceSGD(network, 0.1)
    for _ in range(2):
        rule(x, target)
        z = x @ w1.T
        h = z.clamp(min=0)
        e = torch.softmax(h @ v.T, 1) - y
        c = e @ back
        delta = c * (z > 0) if credit == "derivative" else (h - (z - 0.2 * c).clamp(min=0)) / 0.2
        w1 = w1 - 0.1 * delta.T @ x / 16
        w2 = w2 - 0.1 * (torch.softmax(h @ w2.T, 1) - y).T @ h / 16
        if feedback != "fixed":
            velocity = 0.5 * velocity + e.T @ h / 16
            v = kept * v - 0.3 * velocity
        if feedback == "kolen_pollack":
            back = kept * back - 0.3 * velocity
            close(head.way(), back)
        close(network.chain[0].synapses.weight.detach(), w1)
        close(network.chain[1].synapses.weight.detach(), w2)


def convolutional():
    torch.manual_seed(2)
    first = Layer(nn.Conv2d(2, 3, 3), nn.ReLU())
    second = Layer(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2))
    return Network([first, second, Layer(nn.Linear(36, 3), prepare=nn.Flatten())]).double()


@pytest.mark.parametrize(("pool", "by_torch"), [("max", max_pool2d), ("mean", avg_pool2d)])
def test_with_a_mirrored_head_each_layer_follows_its_own_loss(pool, by_torch):
    """Once B has become V, a layer's update is the gradient of its head's loss, through the pooling."""
    network, target = convolutional(), torch.randint(3, (16,))
    x = torch.randn(16, 2, 8, 8).double()
    rule = LocalHeads(network, x, pool=pool, cells=3)
    for head in rule.heads.values():
        head.weights.normal_(std=0.2)
        head.gap.zero_()
    weights = {i: head.weights.clone() for i, head in rule.heads.items()}
    rule(x, target)
    assert [head.sizes for head in rule.heads.values()] == [[2, 2], [1, 1]]
    h = x
    for i, layer in enumerate(network.chain[:2]):
        parameters = list(layer.synapses.parameters())
        post = torch.relu(layer.synapses(layer.prepare(h)))
        p = by_torch(post, 2) if i == 0 else post
        loss = cross_entropy(p.flatten(1) @ weights[str(i)].T, target)
        for parameter, want in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            close(parameter.grad, want)
        h = post.detach()


def test_the_mirror_becomes_the_head():
    network = make_network()
    x, target = make_batch("mlp")
    rule = LocalHeads(network, x, decay=0.05)
    InPlaceSGD(network, 0.05)
    head = rule.heads["0"]
    before = head.gap.norm()
    for _ in range(100):
        rule(x, target)
    assert head.gap.norm() < 0.01 * before
    assert head.weights.norm() > 0.01


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_second_pass_does_for_every_layer_family(kind, shape, monkeypatch):
    network = make_shaped(kind, shape)
    x, target = make_batch(shape)
    rule = LocalHeads(network, x, credit="second_pass", strength=30.0 if "spiking" in kind else 0.1)
    monkeypatch.setattr(torch.autograd, "grad", None)
    rule(x, target)
    for layer in network.chain:
        assert all(p.grad.isfinite().all() and p.grad.any() for p in layer.synapses.parameters())


@pytest.mark.parametrize("shape", SHAPES)
def test_a_weak_second_pass_asks_for_the_derivative(shape):
    found = []
    for options in ({}, {"credit": "second_pass", "strength": 1e-6}):
        network = make_shaped("plain", shape).double()
        x, target = make_batch(shape)
        LocalHeads(network, x.double(), **options)(x.double(), target)
        found.append([p.grad for p in network.parameters()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_no_layer_needs_what_lies_above():
    """The first layer's update is the same whatever the layers above it are."""
    found = []
    x, target = make_batch("mlp")
    for seed in (1, 2):
        network = make_network()
        with torch.no_grad():
            torch.manual_seed(seed)
            for layer in network.chain[1:]:
                layer.synapses.weight.normal_()
        LocalHeads(network, x)(x, target)
        found.append(network.chain[0].synapses.weight.grad)
    assert torch.equal(*found)


def test_a_head_drawn_from_its_seed_stores_nothing():
    network = make_network()
    x, target = make_batch("mlp")
    rule = LocalHeads(network, x, feedback="fixed", storage="seed")
    assert all(buffer.numel() <= 1 for buffer in rule.heads.buffers())
    costs = observe(rule, x, target, InPlaceSGD(network, 0.01))
    assert rule.heads["0"].feedback().any()
    assert costs.macs


@pytest.mark.parametrize("storage", ["int8", "sign", "seed"])
def test_a_mirror_keeps_one_number_beside_the_head(storage):
    network = make_network()
    x, target = make_batch("mlp")
    rule = LocalHeads(network, x, decay=0.05, storage=storage)
    InPlaceSGD(network, 0.05)
    head = rule.heads["0"]
    assert not torch.equal(head.way(), head.weights)
    for _ in range(100):
        rule(x, target)
    assert float(head.left) == pytest.approx(0.95**100, rel=1e-5)
    torch.testing.assert_close(head.way(), head.weights, atol=0.01, rtol=0)
    again = LocalHeads(make_network(), x, decay=0.05, storage=storage)
    again.heads.load_state_dict(rule.heads.state_dict())
    assert torch.equal(again.heads["0"].way(), head.way())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"feedback": "mirror"}, "feedback"),
        ({"credit": "exact"}, "credit"),
        ({"pool": "min"}, "pool"),
        ({"cells": 0}, "cells"),
        ({"strength": 0.0}, "strength"),
        ({"storage": "int4"}, "storage"),
    ],
)
def test_refuses_options_that_cannot_be(options, said):
    network = make_network()
    with pytest.raises(EdgepepError, match=said):
        LocalHeads(network, make_batch("mlp")[0], **options)
