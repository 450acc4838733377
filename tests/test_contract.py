"""Every rule on every kind of network, through the same assertions; rules are found, not listed."""

import pytest
import torch

from edgepep import InPlaceSGD, Rule, plugins, rules
from edgepep.build import rule_class, rule_options
from tests.conftest import KINDS, make_network

NAMES = plugins.in_package(rules)
every = pytest.mark.parametrize("name", NAMES)
each_kind = pytest.mark.parametrize("kind", KINDS)


def make(name, network, x) -> Rule:
    kind = rule_class(name)
    # with so few neurons and steps, no spike answers a modulation of the published strength
    return kind(network, x, **({"feedback_scale": 2.0} if "feedback_scale" in rule_options(kind) else {}))


@every
@each_kind
def test_fills_in_gradients_and_moves_nothing(name, kind, batch):
    network = make_network(kind)
    rule = make(name, network, batch[0])
    before = {k: v.clone() for k, v in rule.state_dict().items()}
    outcome = rule(*batch)
    assert outcome.loss.isfinite()
    assert outcome.logits.shape == (20, 3)
    learned = [layer.synapses.weight.grad is not None for layer in network.chain]
    assert learned == ([False, False, True] if name == "frozen_hidden" else [True] * 3)
    assert all(p.grad.isfinite().all() and p.grad.any() for p in network.parameters() if p.grad is not None)
    for key, value in rule.state_dict().items():
        assert torch.equal(value, before[key]), key


@every
@each_kind
def test_in_place_updates_end_up_at_the_optimizers_weights(name, kind, batch):
    ends = []
    for in_place in (True, False):
        network = make_network(kind, dropout=0.2)
        rule = make(name, network, batch[0])
        parameters = [layer.synapses.weight for layer in network.chain]
        optimizer = (
            InPlaceSGD(network, 0.05, 0.9, 1e-3)
            if in_place
            else torch.optim.SGD(parameters, 0.05, 0.9, weight_decay=1e-3)
        )
        for _ in range(10):
            optimizer.zero_grad()
            rule(*batch)
            optimizer.step()
        assert not in_place or all(p.grad is None for p in parameters)
        ends.append([p.detach().clone() for p in parameters])
        if name == "frozen_hidden":
            ends[-1] = ends[-1][-1:]  # weight decay alone moves what never has a gradient in neither form
    tolerance = 1e-5 if kind == "plain" else 2e-3  # a rounding that falls the other way moves a code or a spike
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


@every
def test_is_deterministic(name, batch):
    ends = []
    for _ in range(2):
        network = make_network(dropout=0.2)
        rule = make(name, network, batch[0])
        InPlaceSGD(network, 0.05, 0.9)
        for _ in range(5):
            rule(*batch)
        ends.append([p.detach().clone() for p in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "backprop"])
@each_kind
def test_no_autograd_graph_under_a_forward_only_rule(name, kind, batch, monkeypatch):
    def forbidden(*_, **__):
        raise AssertionError("a gradient was computed by autograd")

    monkeypatch.setattr(torch.autograd, "backward", forbidden)
    monkeypatch.setattr(torch.autograd, "grad", forbidden)
    network = make_network(kind)
    rule = make(name, network, batch[0])
    seen = []
    for layer in network.chain:
        layer.register_forward_hook(lambda _, __, activity: seen.extend(activity))
    outcome = rule(*batch)
    assert seen
    assert all(t.grad_fn is None for t in [*seen, outcome.logits])


@every
def test_beats_the_frozen_control_or_is_it(name):
    from edgepep import datasets, load
    from edgepep.training import evaluate, fit, prepare

    train, test = datasets.load("digits", True), datasets.load("digits", False)
    reached = {}
    for rule in {name, "frozen_hidden"}:
        made, optimizer, scheduler = prepare(load("digits-fc"), rule, 0, train, "cpu")
        for _ in fit(made, train, optimizer, epochs=30, batch_size=32, scheduler=scheduler):
            pass
        reached[rule] = evaluate(made.network, test)
    assert reached["frozen_hidden"] > 80
    assert name == "frozen_hidden" or reached[name] > reached["frozen_hidden"] + 2


def test_a_rule_knows_no_layer_family():
    from pathlib import Path

    for path in Path(rules.__path__[0]).glob("*.py"):
        text = path.read_text()
        assert not any(word in text for word in ("brevitas", "snntorch", "onnx", "Leaky", "Quantiser")), path.name
