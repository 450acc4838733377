"""Every rule on every kind of network, through the same assertions; rules are found, not listed."""

import pytest
import torch

from edgepep import EdgepepError, InPlaceSGD, Rule, plugins, rules
from edgepep.build import rule_class, rule_options
from edgepep.phases import BACKWARD
from edgepep.profiling.observe import observe
from edgepep.rules.kolen_pollack import KolenPollack
from edgepep.rules.pepita import Pepita
from tests.conftest import KINDS, SHAPES, make_batch, make_network, make_shaped

NAMES = plugins.in_package(rules)
CONTROLS = [name for name in NAMES if rule_class(name).source == "control"]
every = pytest.mark.parametrize("name", NAMES)
each_kind = pytest.mark.parametrize("kind", KINDS)
each_shape = pytest.mark.parametrize("shape", SHAPES)


def make(name, network, x, **options) -> Rule:
    kind = rule_class(name)
    if issubclass(kind, Pepita):  # with so few neurons and steps, no spike answers a modulation of published strength
        options = {"feedback_scale": 2.0, **options}
    return kind(network, x, **options)


@every
@each_kind
@each_shape
def test_fills_in_every_update_and_moves_nothing_else(name, kind, shape, monkeypatch):
    x, target = make_batch(shape)
    network = make_shaped(kind, shape)
    rule = make(name, network, x)
    before = {k: v.clone() for k, v in network.state_dict().items() if not k.endswith(".step")}
    seen = watched(network, rule, monkeypatch)
    outcome = rule(x, target)
    assert outcome.loss.isfinite()
    assert outcome.logits.shape == (20, 3)
    learned = [[p.grad is not None for p in layer.synapses.parameters()] for layer in network.chain]
    *hidden, output = learned
    assert all(output)
    assert not any(map(any, hidden)) if name in CONTROLS else all(map(all, hidden))
    assert all(p.grad.isfinite().all() and p.grad.any() for p in network.parameters() if p.grad is not None)
    kept = 1 - rule.decay if isinstance(rule, KolenPollack) else 1.0
    for key, value in network.state_dict().items():
        if not key.endswith(".step"):
            down = kept if key.endswith("synapses.weight") and not key.startswith("layers.0") else 1.0
            assert torch.equal(value, before[key] * down), key
    if not rule.traits.backward:
        assert seen
        assert all(t.grad_fn is None for t in [*seen, outcome.logits])


def watched(network, rule, monkeypatch):
    """Activities as they arise; under a rule without a backward pass autograd is forbidden."""
    seen = []
    if rule.traits.backward:
        return seen

    def forbidden(*_, **__):
        raise AssertionError("a gradient was computed by autograd")

    monkeypatch.setattr(torch.autograd, "backward", forbidden)
    monkeypatch.setattr(torch.autograd, "grad", forbidden)
    for layer in network.chain:
        layer.register_forward_hook(lambda _, __, activity: seen.extend(activity))
    return seen


@every
@each_kind
def test_in_place_updates_end_up_at_the_optimizers_weights(name, kind, batch):
    ends = []
    for in_place in (True, False):
        network = make_network(kind, dropout=0.2)
        rule = make(name, network, batch[0])
        parameters = [layer.synapses.weight for layer in network.chain]
        optimizer = (
            InPlaceSGD(network, 0.02, 0.9, 1e-3)
            if in_place
            else torch.optim.SGD(parameters, 0.02, 0.9, weight_decay=1e-3)
        )
        for _ in range(10):
            optimizer.zero_grad()
            rule(*batch)
            optimizer.step()
        assert not in_place or all(p.grad is None for p in parameters)
        ends.append([p.detach().clone() for p in parameters])
        if name in CONTROLS:
            ends[-1] = ends[-1][-1:]  # weight decay alone moves what never has a gradient in neither form
    tolerance = 1e-5 if kind == "plain" else 5e-3  # a rounding that falls the other way moves a code or a spike
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


@every
def test_says_whether_it_has_a_backward_pass(name, batch):
    network = make_network()
    rule = make(name, network, batch[0])
    costs = observe(rule, *batch, InPlaceSGD(network, 0.01, 0.9))
    assert (BACKWARD in costs.macs) == rule.traits.backward
    assert all("not stated" not in str(trait) for trait in rule.traits)


@pytest.mark.parametrize(
    ("name", "options", "backward", "transport"),
    [
        ("last_layer", {"layers": 2}, True, "those that learn"),
        ("pepita", {"adversarial": 0.1}, True, "all weights"),
        ("pepita", {"feedback": "product"}, False, "their product"),
    ],
)
def test_an_option_that_runs_an_error_chain_says_so(name, options, backward, transport, batch):
    network = make_network()
    rule = make(name, network, batch[0], **options)
    costs = observe(rule, *batch, InPlaceSGD(network, 0.01, 0.9))
    assert (BACKWARD in costs.macs) == rule.traits.backward == backward
    assert rule.traits.transport == transport
    assert not rule_class(name).traits.backward


@every
def test_goes_on_from_its_state(name, batch):
    network = make_network(dropout=0.2)
    rule = make(name, network, batch[0])
    samples = torch.arange(len(batch[0]))
    rule(*batch, samples)
    twin = make_network(dropout=0.2)
    other = make(name, twin, batch[0], **({"seed": 5} if "seed" in rule_options(type(rule)) else {}))
    other.load_state_dict(rule.state_dict())
    if hasattr(rule, "seed"):
        other.seed = rule.seed
    for made in (rule, other):
        made.zero_grad()
        made(*batch, samples)
    for a, b in zip(network.parameters(), twin.parameters(), strict=True):
        assert a.grad is None or torch.equal(a.grad, b.grad)


@every
def test_refuses_targets_that_are_not_classes(name, batch):
    network = make_network()
    rule = make(name, network, batch[0])
    before = {k: v.clone() for k, v in rule.state_dict().items()}
    with pytest.raises(EdgepepError, match="class indices"):
        rule(batch[0], torch.randn(20, 3))
    assert all(torch.equal(v, before[k]) for k, v in rule.state_dict().items())


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
        reached[rule] = evaluate(made, test)
    assert reached["frozen_hidden"] > 80
    assert name in CONTROLS or reached[name] > reached["frozen_hidden"] + 2


def test_a_rule_knows_no_layer_family():
    from pathlib import Path

    for path in Path(rules.__path__[0]).glob("*.py"):
        text = path.read_text()
        assert not any(word in text for word in ("brevitas", "snntorch", "onnx", "Leaky", "Quantiser")), path.name
