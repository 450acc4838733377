"""PEPITA against its equations, written out again by hand."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot

from edgepep import EdgepepError, InPlaceSGD, Layer, Network
from edgepep.local import dense_gradient, pull_back, weight_gradient
from edgepep.rules.mempepita import Mempepita
from edgepep.rules.pepita import Pepita
from edgepep.synapses import PaddedConv2d
from tests.conftest import KINDS, make_network


def by_hand(weights, feedback, x, target, sign=-1):
    """Two passes and three outer products, as in the paper's Algorithm 1."""
    w1, w2, w3 = weights
    h1 = torch.relu(x @ w1.T)
    h2 = torch.relu(h1 @ w2.T)
    e = torch.softmax(h2 @ w3.T, 1) - one_hot(target, 2)
    xm = x + sign * e @ (feedback * -sign)
    g1 = torch.relu(xm @ w1.T)
    g2 = torch.relu(g1 @ w2.T)
    return [d.T @ p / len(x) for d, p in ((h1 - g1, xm), (h2 - g2, g1), (e, g2))]


def small(seed=3, dtype=torch.float64):
    torch.manual_seed(seed)
    sizes = (4, 3, 5, 2)
    layers = [Layer(nn.Linear(i, o, bias=False), nn.ReLU()) for i, o in pairwise(sizes)]
    layers[-1].neurons = nn.Identity()
    return Network(layers).to(dtype), torch.randn(16, 4, dtype=dtype), torch.randint(2, (16,))


@pytest.mark.parametrize("kind", [Pepita, Mempepita])
@pytest.mark.parametrize("batch", [16, 1])  # with more samples than classes by linearity, else directly
def test_update_is_the_papers(kind, batch):
    network, x, target = small()
    x, target = x[:batch], target[:batch]
    rule = kind(network, x, feedback_scale=1.0)
    want = by_hand([layer.synapses.weight.detach() for layer in network.chain], rule.feedback, x, target)
    rule(x, target)
    for layer, gradient in zip(network.chain, want, strict=True):
        torch.testing.assert_close(layer.synapses.weight.grad, gradient, atol=1e-12, rtol=1e-9)


def test_the_papers_sign_is_the_same_rule_with_feedback_mirrored():
    grads = []
    for sign in (-1, 1):
        network, x, target = small()
        rule = Pepita(network, x, sign=sign)
        rule.feedback.mul_(-sign)
        rule(x, target)
        grads.append([layer.synapses.weight.grad for layer in network.chain])
    torch.testing.assert_close(*grads)


def test_without_feedback_hidden_layers_rest():
    network, x, target = small()
    Pepita(network, x, feedback_scale=0.0)(x, target)
    *hidden, output = [layer.synapses.weight.grad for layer in network.chain]
    assert not any(g.any() for g in hidden)
    assert output.any()


def test_options_change_what_they_say():
    grads = {}
    for name, options in {
        "default": {},
        "second error": {"output_error": "second"},
        "first pre": {"presynaptic": "first"},
    }.items():
        network, x, target = small()
        Pepita(network, x, feedback_scale=1.0, **options)(x, target)
        grads[name] = [layer.synapses.weight.grad for layer in network.chain]
    assert torch.equal(grads["default"][0], grads["second error"][0])
    assert not torch.equal(grads["default"][2], grads["second error"][2])
    assert not torch.equal(grads["default"][0], grads["first pre"][0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("in_place", [True, False])
def test_mempepita_is_pepita_after_twenty_steps(kind, dtype, in_place, batch):
    x, target = batch[0].to(dtype), batch[1]
    ends = []
    for rule in (Pepita, Mempepita):
        network = make_network(kind, dropout=0.1).to(dtype)
        made = rule(network, x)
        optimizer = InPlaceSGD(network, 0.05, 0.9) if in_place else torch.optim.SGD(network.parameters(), 0.05, 0.9)
        for _ in range(20):
            optimizer.zero_grad()
            made(x, target)
            optimizer.step()
        ends.append([layer.synapses.weight.detach() for layer in network.chain])
    for a, b in zip(*ends, strict=True):
        assert torch.equal(a, b) if dtype == torch.float64 else torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("reduction", ["sum", "mean", "sqrt"])
def test_convolution_learns_what_autograd_says_of_its_difference(reduction):
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 4, 3, stride=2, padding=1, bias=False)
    network = Network(
        [Layer(conv, nn.ReLU()), Layer(nn.Linear(36, 3, bias=False), prepare=nn.Sequential(nn.Flatten()))]
    )
    x, target = torch.randn(8, 2, 6, 6), torch.randint(3, (8,))
    rule = Pepita(network, x, feedback_scale=1.0, conv_reduction=reduction, extra_batch_division=True)
    with torch.no_grad():
        h = torch.relu(conv(x))
        e = torch.softmax(network(x), 1) - one_hot(target, 3)
        xm = x - (e @ rule.feedback.flatten(1)).view_as(x)
        delta = h - torch.relu(conv(xm))
    want = torch.autograd.grad(conv(xm), conv.weight, delta)[0] / 8 / 8 / {"sum": 1, "mean": 9, "sqrt": 3}[reduction]
    rule(x, target)
    torch.testing.assert_close(conv.weight.grad, want, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("synapses", "shape"),
    [
        (nn.Linear(4, 3), (5, 4)),
        (nn.Linear(4, 3), (6, 5, 4)),
        (nn.Conv1d(2, 4, 3, padding=1), (5, 2, 9)),
        (nn.Conv2d(2, 4, 3, padding=1, stride=2), (5, 2, 7, 6)),
        (nn.Conv2d(4, 8, 3, groups=4, dilation=2), (5, 4, 9, 9)),
        (nn.Conv2d(3, 3, 3, groups=3, padding="same"), (5, 3, 8, 8)),
        (nn.Conv2d(2, 4, 4, padding="same"), (5, 2, 8, 8)),
        (PaddedConv2d(2, 4, 3, stride=2, pads=(0, 1, 0, 1)), (5, 2, 8, 8)),
        (nn.Conv2d(2, 4, 3, padding=2, padding_mode="reflect"), (5, 2, 8, 8)),
        (nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular", bias=False), (5, 2, 8, 8)),
    ],
)
def test_local_update_is_the_gradient(synapses, shape):
    x = torch.randn(shape)
    delta = torch.randn_like(synapses(x))
    names = [n for n, _ in synapses.named_parameters()]
    want = torch.autograd.grad(synapses(x), list(synapses.parameters()), delta)
    got = weight_gradient(synapses, x, delta)
    for name, gradient in zip(names, want, strict=True):
        torch.testing.assert_close(dense_gradient(got[name]), gradient, atol=1e-4, rtol=1e-4)


def test_pull_back_is_one_functions_share():
    x, delta = torch.randn(4, 3), torch.randn(4, 3)
    torch.testing.assert_close(pull_back(torch.tanh, x, delta), delta * (1 - torch.tanh(x) ** 2))


def test_a_weight_changed_by_hand_is_seen():
    network, x, target = small()
    rule = Pepita(network, x, feedback_scale=1.0)
    InPlaceSGD(network, 0.1, 0.9)
    rule(x, target)
    with torch.no_grad():
        network.chain[0].synapses.weight.mul_(2)
    twin = copy.deepcopy(network)
    for layer in twin.chain:
        layer.updater = None
    plain = Pepita(twin, x, feedback_scale=1.0)
    before = [layer.synapses.weight.detach().clone() for layer in network.chain]
    velocity = [
        p.clone() for p in (network.chain[0].updater.state[w.synapses.weight]["momentum_buffer"] for w in network.chain)
    ]
    rule(x, target)
    plain(x, target)
    for layer, other, w, v in zip(network.chain, twin.chain, before, velocity, strict=True):
        torch.testing.assert_close(layer.synapses.weight, w - 0.1 * (0.9 * v + other.synapses.weight.grad))


@pytest.mark.parametrize(
    "option", [{"sign": 2}, {"output_error": "third"}, {"presynaptic": ""}, {"conv_reduction": "max"}]
)
def test_wrong_options_are_named(option):
    network, x, _ = small()
    with pytest.raises(EdgepepError, match=next(iter(option))):
        Pepita(network, x, **option)


@pytest.mark.parametrize("in_place", [True, False])
def test_a_frozen_parameter_stays(in_place):
    torch.manual_seed(0)
    network = Network([Layer(nn.Linear(4, 3), nn.ReLU()), Layer(nn.Linear(3, 2))])
    frozen = network.chain[0].synapses.bias.requires_grad_(False)
    before, x, target = frozen.clone(), torch.randn(8, 4), torch.randint(2, (8,))
    rule = Pepita(network, x, feedback_scale=1.0)
    if in_place:
        InPlaceSGD(network, 0.1, 0.9)
    rule(x, target)
    assert frozen.grad is None
    assert torch.equal(frozen, before)


def test_linear_synapses_over_a_row_of_tokens_learn_in_place_too():
    ends = []
    for in_place in (True, False):
        torch.manual_seed(0)
        first = Layer(nn.Linear(4, 3), nn.ReLU())
        network = Network([first, Layer(nn.Linear(15, 2), prepare=nn.Flatten())])
        x, target = torch.randn(8, 5, 4), torch.randint(2, (8,))
        rule = Pepita(network, x, feedback_scale=1.0)
        optimizer = InPlaceSGD(network, 0.1, 0.9) if in_place else torch.optim.SGD(network.parameters(), 0.1, 0.9)
        for _ in range(3):
            optimizer.zero_grad()
            rule(x, target)
            optimizer.step()
        ends.append(first.synapses.weight.detach())
    torch.testing.assert_close(*ends)


@pytest.mark.parametrize("storage", ["float", "int8", "sign", "seed"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_modulation_is_scaled_to_the_data_once(kind, storage, batch):
    x, target = batch
    rule = Pepita(make_network(kind), x, strength=0.01, storage=storage)
    assert rule.modulation(x, target) > 0.011
    InPlaceSGD(rule.network, 1e-6)
    rule(x, target)
    assert rule.modulation(x, target) == pytest.approx(0.01, rel=1e-3)
    feedback = rule.feedback.clone()
    rule(x * 3, target)
    assert torch.equal(rule.feedback, feedback)
    again = Pepita(make_network(kind), x, strength=0.01, storage=storage)
    again.load_state_dict(rule.state_dict())
    again(x * 3, target)
    assert torch.equal(again.feedback, feedback)


def test_a_limit_scales_down_what_is_stronger(batch):
    x, target = batch
    for limit in (0.01, 0.9):
        weights = []
        for options in ({"limit": limit}, {}):
            rule = Pepita(make_network(), x, feedback_scale=0.3, **options)
            if not options and limit < rule.modulation(x, target):
                rule.projection.rescale(limit / rule.modulation(x, target))
            InPlaceSGD(rule.network, 0.1)
            rule(x, target)
            weights.append(rule.network.chain[0].synapses.weight.detach())
        torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "value"), [("strength", -0.1), ("strength", 2.0), ("limit", -1.0)])
def test_a_strength_that_cannot_be_is_named(name, value, batch):
    with pytest.raises(EdgepepError, match=name):
        Pepita(make_network(), batch[0], **{name: value})
