"""Choices layer by layer: who rests, how fast, by which rule; and what is measured of their credit."""

import warnings
from functools import partial

import pytest
import torch
from torch import nn

from edgepep import (
    Diagnostics,
    EdgepepError,
    InPlaceSGD,
    Layer,
    Network,
    PerLayer,
    diagnose,
    load,
    plugins,
    profile,
    rules,
)
from edgepep.build import rule_class
from edgepep.derivatives import pull_back
from edgepep.diagnostics import TrainingWarning
from edgepep.groups import parameter_groups
from edgepep.profiling.observe import KEPT, observe
from edgepep.rules.activation_alignment import ActivationAlignment
from edgepep.rules.backprop import Backprop
from edgepep.rules.drtp import Drtp
from edgepep.rules.feedback_alignment import FeedbackAlignment
from edgepep.rules.forward_forward import ForwardForward
from edgepep.rules.frozen_hidden import FrozenHidden
from edgepep.rules.pepita import Pepita
from edgepep.rules.weight_mirror import WeightMirror
from tests.conftest import make_batch, make_network, make_shaped

NAMES = plugins.in_package(rules)


@pytest.mark.parametrize("name", NAMES)
def test_frozen_layers_rest(name, batch):
    network = make_network()
    network.freeze("0")
    before = network.chain[0].synapses.weight.clone()
    rule = rule_class(name)(network, batch[0])
    InPlaceSGD(network, 0.05, 0.9, weight_decay=0.1)
    for _ in range(3):
        rule(*batch)
    assert torch.equal(network.chain[0].synapses.weight, before)
    assert network.chain[0].synapses.weight.grad is None


def test_names_that_match_nothing_are_told():
    network = make_network()
    with pytest.raises(EdgepepError, match=r"no layer is called 'conv'\. There are: 0, 1, 2"):
        network.freeze("conv")
    network.freeze("*")
    with pytest.raises(EdgepepError, match="nothing in the network learns"):
        InPlaceSGD(network, 0.1)


@pytest.mark.parametrize("in_place", [True, False])
def test_rates_multiply_the_learning_rate(in_place, batch):
    moved = []
    for rates in ({}, {"*": 0.5, "1": 0.0, "2": 3.0}):
        network = make_network()
        before = [layer.synapses.weight.detach().clone() for layer in network.chain]
        rule = FeedbackAlignment(network, batch[0])
        optimizer = (
            InPlaceSGD(network, 0.1, rates=rates)
            if in_place
            else torch.optim.SGD(parameter_groups(network, 0.1, rates))
        )
        rule(*batch)
        optimizer.step()
        moved.append([layer.synapses.weight - b for layer, b in zip(network.chain, before, strict=True)])
    for plain, scaled, factor in zip(*moved, (0.5, 0.0, 3.0), strict=True):
        torch.testing.assert_close(scaled, plain * factor, atol=1e-7, rtol=1e-4)


def test_a_rate_below_zero_is_refused():
    with pytest.raises(EdgepepError, match="rate of '0' is -1"):
        parameter_groups(make_network(), 0.1, {"0": -1})


def test_each_layer_by_its_own_rule():
    x, target = make_batch("conv")
    network = make_shaped("plain", "conv")
    rule = PerLayer(network, x, {"0": partial(FeedbackAlignment, seed=3), "1,2": Drtp})
    rule(x, target)
    got = [layer.synapses.weight.grad.clone() for layer in network.chain]
    for make, layers in ((partial(FeedbackAlignment, seed=3), [0]), (Drtp, [1, 2])):
        network.zero_grad()
        make(network, x)(x, target)
        for i in layers:
            torch.testing.assert_close(network.chain[i].synapses.weight.grad, got[i])
    assert sum(key.endswith("synapses.weight") for key in rule.state_dict()) == 3
    assert not any(layer.resting for layer in network.chain)


def test_frozen_convolutions_with_a_drtp_head():
    x, target = make_batch("conv")
    network = make_shaped("plain", "conv")
    network.freeze("[01]")
    before = [p.clone() for p in network.parameters()]
    rule = Drtp(network, x)
    assert not rule.feedback  # nothing hidden learns
    InPlaceSGD(network, 0.1, 0.9)
    rule(x, target)
    moved = [not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True)]
    assert moved == [False] * 3 + [True] * 2


def test_a_layer_without_a_rule_is_told(batch):
    with pytest.raises(EdgepepError, match="no rule for 1, 2"):
        PerLayer(make_network(), batch[0], {"0": Pepita})


def test_a_recipe_may_name_frozen_layers_rates_and_a_head():
    recipe = load("mnist-mlp").but(network={"frozen": ["0"]}, head={"rule": "drtp"}, training={"rates": {"2": 0.5}})
    network = recipe.build()
    assert not network.chain[0].learns
    rule = recipe.make_rule(network, "dfa")
    assert [type(r).__name__ for r in rule.rules] == ["Dfa", "Drtp"]
    assert recipe.settings("dfa").rates == {"2": 0.5}
    with pytest.raises(EdgepepError, match=r"head\.layers is 3"):
        load("mnist-mlp").but(head={"rule": "drtp", "layers": 3}).make_rule(network, "dfa")
    with pytest.raises(EdgepepError, match="did you mean 'drtp'"):
        load("mnist-mlp").but(head={"rule": "drtpp"})


@pytest.mark.parametrize("kind", ["plain", "quantized", "spiking"])
@pytest.mark.parametrize("name", NAMES)
def test_measuring_changes_nothing(name, kind, batch):
    ends = []
    for measured in (False, True):
        network = make_network(kind, dropout=0.2)
        rule = rule_class(name)(network, batch[0])
        InPlaceSGD(network, 0.02, 0.9)
        for _ in range(4):
            if measured:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", TrainingWarning)
                    Diagnostics(every=1)(rule, *batch, torch.arange(20))
            rule(*batch, torch.arange(20))
        ends.append({k: v.clone() for k, v in rule.state_dict().items()})
    assert all(torch.equal(v, ends[1][k]) for k, v in ends[0].items())


def test_backpropagation_agrees_with_itself(batch):
    network = make_network()
    found = diagnose(Backprop(network, batch[0]), *batch)
    assert all(
        layer.update_angle < 0.1 and layer.update_ratio == pytest.approx(1.0, abs=1e-5) for layer in found.layers
    )
    assert [layer.feedback_angle for layer in found.layers] == [None] * 3


def test_angles_are_those_of_the_matrices(batch):
    network = make_network()
    rule = FeedbackAlignment(network, batch[0])
    rule.feedback["2"].codes.copy_(2 * network.chain[2].synapses.weight.detach())
    rule.feedback["1"].codes.copy_(-network.chain[1].synapses.weight.detach())
    first, second, third = diagnose(rule, *batch).layers
    assert first.feedback_angle is None
    assert second.feedback_angle == pytest.approx(180, abs=0.1)
    assert third.feedback_angle == pytest.approx(0, abs=0.1)
    assert third.feedback_ratio == pytest.approx(2)
    assert second.update_angle == pytest.approx(0, abs=0.1)
    assert second.update_ratio == pytest.approx(2, rel=1e-4)
    assert first.update_angle == pytest.approx(180, abs=0.1)


def test_modulation_and_zeros_are_measured(batch):
    network = make_network()
    rule = Pepita(network, batch[0])
    found = diagnose(rule, *batch)
    with torch.no_grad():
        e = torch.softmax(network(batch[0]), 1) - nn.functional.one_hot(batch[1], 3)
        want = (e @ rule.feedback).norm() / batch[0].norm()
        dead = (next(network.stream(batch[0])).current <= 0).float().mean()
    assert found.modulation == pytest.approx(float(want))
    assert found.layers[0].zeros == pytest.approx(float(dead), abs=0.05)
    assert "M to W" in str(found)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (partial(Pepita, feedback_scale=3.0), "modulation"),
        (partial(WeightMirror, feedback_scale=5.0), "feedback of 1"),
        (partial(ActivationAlignment, step="fixed", rate=1.0), "step of 1"),
    ],
)
def test_a_warning_comes_before_the_collapse(make, said, batch):
    network = make_network()
    watch = Diagnostics(every=1)
    rule = make(network, batch[0])
    with pytest.warns(TrainingWarning, match=said):
        watch(rule, *batch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch(rule, *batch)  # said once
    assert len(watch.history) == 2
    assert not any(make.func(make_network(), batch[0]).risks(*batch))


def test_forward_forward_body_with_a_readout_of_its_own(batch):
    network = make_network()
    rule = PerLayer(network, batch[0], {"[01]": ForwardForward, "2": FrozenHidden})
    outcome = rule(*batch)
    assert outcome.loss.isfinite()
    assert all(layer.synapses.weight.grad.any() for layer in network.chain)


def test_a_network_of_one_layer_learns_by_every_rule(batch):
    for name in NAMES:
        network = Network([Layer(nn.Linear(12, 3))])
        rule = rule_class(name)(network, batch[0])
        rule(*batch)
        assert network.chain[0].synapses.weight.grad.any(), name


def test_backpropagation_in_one_part_leaves_the_others_alone(batch):
    network = make_network()
    PerLayer(network, batch[0], {"2": Backprop, "*": FrozenHidden})(*batch)
    assert network.chain[0].synapses.weight.grad is None
    assert network.chain[2].synapses.weight.grad.any()
    assert all(p.requires_grad for p in network.parameters())


def test_parts_are_measured_and_warned_of_as_one(batch):
    network = make_network()
    rule = PerLayer(network, batch[0], {"0": partial(Pepita, feedback_scale=3.0), "1,2": FeedbackAlignment})
    found = diagnose(rule, *batch, torch.arange(20))
    assert found.modulation > 0.1
    assert found.risks
    assert found.layers[1].feedback_angle is not None


def test_measuring_a_rule_that_remembers_samples_inside_another(batch):
    network = make_network()
    rule = PerLayer(network, batch[0], {"*": rule_class("f3")})
    rule(*batch, torch.arange(20))
    diagnose(rule, *batch, torch.arange(20) + 100)
    assert len(rule.rules[0].delayed) == 20


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
@pytest.mark.parametrize("name", NAMES)
def test_classes_may_be_integers_of_any_kind(name, dtype, batch):
    rule = rule_class(name)(make_network(), batch[0])
    assert rule(batch[0], batch[1].to(dtype)).loss.isfinite()


def test_a_restored_velocity_is_followed(batch):
    network = make_network()
    rule = Pepita(network, batch[0])
    optimizer = InPlaceSGD(network, 0.1, 0.9)
    for _ in range(3):
        rule(*batch)
    state = optimizer.state_dict()
    for entry in state["state"].values():
        entry["momentum_buffer"] = torch.zeros_like(entry["momentum_buffer"])
    optimizer.load_state_dict(state)
    rule(*batch)
    weight = network.chain[0].synapses.weight
    torch.testing.assert_close(
        optimizer.response(weight, rule.feedback), rule.feedback @ weight.t(), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("pool", [(2,), (3,), ((1, 3),), ((4, 2),), (3, 2), (2, 2, 1), (5,)])
@pytest.mark.parametrize("shape", [(3, 2, 8, 12), (1, 5, 7, 9), (2, 1, 5, 4)])
def test_pooling_without_a_backward_pass_gives_the_same(pool, shape):
    from edgepep.pooling import pooled

    module = nn.MaxPool2d(*pool)
    x = torch.randn(shape)
    x[0, 0, 1, 1] = float("nan")
    x[0, 0, 3, 3] = -float("inf")
    if min(shape[2:]) < 5 and pool == (5,):
        return
    for given in (x, x.to(memory_format=torch.channels_last), x.double()):
        with torch.no_grad():
            torch.testing.assert_close(pooled(module, given), module(given), rtol=0, atol=0, equal_nan=True)
    answer = pooled(module, x.requires_grad_())
    assert answer.requires_grad


POOLS = [
    nn.AvgPool2d(2),
    nn.AvgPool2d(3),
    nn.AvgPool2d((1, 3)),
    nn.AvgPool2d(3, 2),
    nn.AvgPool2d(2, divisor_override=3),
]
POOLS += [nn.MaxPool2d(2), nn.MaxPool2d((4, 2)), nn.MaxPool2d(3, 2)]


@pytest.mark.parametrize("pool", POOLS, ids=str)
@pytest.mark.parametrize("exporting", [False, True])
def test_errors_go_back_through_pooling_as_under_autograd(monkeypatch, pool, exporting):
    x = torch.randint(0, 4, (3, 2, 8, 11)).float().requires_grad_()  # with several maxima in a window
    answer = pool(x)
    delta = torch.randn_like(answer)
    want = torch.autograd.grad(answer, x, delta)[0]
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: exporting)
    torch.testing.assert_close(pull_back(pool, x.detach(), delta), want)


NEURONS = [nn.Identity(), nn.ReLU(), nn.Tanh(), nn.Sigmoid(), nn.Softplus(), nn.Sequential(nn.Tanh(), nn.Sigmoid())]


@pytest.mark.parametrize("neurons", NEURONS, ids=str)
def test_what_a_layer_keeps_tells_the_derivative_of_its_neurons(neurons):
    layer = Layer(nn.Linear(6, 5), neurons)
    x, credit = torch.randn(7, 6), torch.randn(7, 5)
    activity = layer(x)
    delta = layer.error_at_current(layer.kept(activity), credit)
    current = activity.current.detach().requires_grad_()
    assert torch.equal(delta, torch.autograd.grad(neurons(current), current, credit)[0])
    assert torch.equal(delta, pull_back(neurons, current.detach(), credit))


@pytest.mark.parametrize("name", ["feedback_alignment", "dfa", "drtp", "weight_mirror"])
def test_tanh_needs_no_more_memory_than_relu(name):
    totals = []
    for neurons in ("relu", "tanh"):
        recipe = load("mnist-mlp").but(rules={name: {"network": {"neurons": neurons}}})
        totals.append(profile(recipe, name, batch=512).total_memory)
    assert totals[0] == totals[1]


@pytest.mark.parametrize("name", ["last_layer", "feedback_alignment", "dfa", "symmetric_alignment"])
def test_of_layers_below_all_that_learn_nothing_is_kept(name):
    kept = []
    for depth in (6, 9):
        layers = [Layer(nn.Linear(32, 32), nn.Tanh(), nn.Dropout(0.1)) for _ in range(depth)]
        network = Network([*layers, Layer(nn.Linear(32, 4))])
        network.freeze(*map(str, range(depth - 1 if name != "last_layer" else 0)))
        x, target = torch.randn(128, 32), torch.randint(4, (128,))
        kept.append(observe(rule_class(name)(network, x), x, target, InPlaceSGD(network, 0.01)).memory[KEPT])
    assert kept[0] == kept[1]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("feedback_alignment", {}),
        ("dfa", {}),
        ("dfa", {"form": "kernel"}),
        ("last_layer", {}),
        ("symmetric_alignment", {}),
    ],
)
def test_freezing_what_lies_below_changes_nothing_above(name, options, batch):
    moved = []
    for frozen in (["0"], []):
        network = make_network()
        network.freeze(*frozen)
        rule = rule_class(name)(network, batch[0], **options)
        InPlaceSGD(network, 0.05)
        rule(*batch)
        moved.append([layer.synapses.weight.clone() for layer in network.chain[1:]])
    for one, other in zip(*moved, strict=True):
        torch.testing.assert_close(one, other)
