"""Weights that are integer codes alone: rounding, updates, every rule, state, memory, errors."""

import copy
import pickle

import pytest
import torch
from torch import nn

from benchmarks.integer_memory import bytes_held
from edgepep import EdgepepError, InPlaceSGD, Layer, Network, RecipeError, diagnose, load, noise, plugins, rules
from edgepep.build import rule_class
from edgepep.integer_weights import IntegerConv2d, IntegerLinear, with_integer_weights
from edgepep.local import Product, effective_weight, linear_part
from edgepep.profiling.observe import observe
from edgepep.rounding import update_
from edgepep.rules.backprop import Backprop
from edgepep.rules.mempepita import Mempepita
from edgepep.rules.pepita import Pepita
from edgepep.synapses import PaddedConv2d
from tests.conftest import make_batch, make_network

NAMES = plugins.in_package(rules)
CONTROLS = [name for name in NAMES if rule_class(name).source == "control"]


def made(bits=8, bias=False) -> Network:
    """A narrow network with integer weights, and another seed than the plain one's dropout."""
    network = make_network(bias=bias)
    layers = [Layer(with_integer_weights(own.synapses, bits), own.neurons) for own in network.chain]
    return Network(layers)


def codes_of(network):
    return [layer.synapses.codes.clone() for layer in network.chain]


@pytest.mark.parametrize("change", [0.003, 0.3, -0.5, -1.7, 2.25])
def test_rounding_is_unbiased(change):
    codes = torch.zeros(400, 500, dtype=torch.int8)
    update_(codes, torch.full((400, 500), -change), torch.ones(()), 0.0, noise.key(3), 127)
    left_over = change % 1
    deviation = (left_over * (1 - left_over) / codes.numel()) ** 0.5
    assert abs(codes.double().mean() - change) < 4 * deviation
    assert set(codes.unique().tolist()) == {int(change // 1), int(change // 1) + 1}


def test_nothing_changes_where_the_gradient_is_nought_or_no_number():
    codes = torch.randint(-127, 128, (40, 50), dtype=torch.int8)
    before = codes.clone()
    for value in (0.0, torch.nan):
        update_(codes, torch.full((40, 50), value), torch.ones(()), 0.0, noise.key(3), 127)
        assert torch.equal(codes, before)


def test_rounding_does_not_depend_on_how_rows_are_cut(monkeypatch):
    ends = []
    for size in (1, 100, 2**20):
        monkeypatch.setattr("edgepep.rounding._IN_CACHE", size)
        codes = torch.zeros(30, 20, dtype=torch.int8)
        gradient = torch.randn(30, 20, generator=torch.Generator().manual_seed(0))
        update_(codes, gradient, torch.ones(()), 0.0, noise.key(3), 127)
        ends.append(codes)
    assert all(torch.equal(ends[0], end) for end in ends)
    assert torch.equal(noise.bits((4, 5), noise.key(1), start=10), noise.bits((6, 5), noise.key(1))[2:])


@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_updates_are_the_float_updates_on_average(kind, momentum):
    torch.manual_seed(0)
    plain = nn.Linear(6, 5, bias=False) if kind == "linear" else nn.Conv2d(2, 4, 3, groups=2, bias=False)
    x = torch.randn(8, 6) if kind == "linear" else torch.randn(8, 2, 6, 6)
    total, runs = 0.0, 400
    for seed in range(runs):
        network = Network([Layer(with_integer_weights(plain, 8, seed=seed))])
        before = effective_weight(network.chain[0].synapses).clone()
        InPlaceSGD(network, 0.02, momentum, weight_decay=0.1)
        for _ in range(3):
            network.chain[0].learn(x, torch.ones_like(network(x)), 0.1)
        total = total + effective_weight(network.chain[0].synapses) - before
    twin = copy.deepcopy(plain)
    twin.weight.data.copy_(before)
    network = Network([Layer(twin)])
    InPlaceSGD(network, 0.02, momentum, weight_decay=0.1)
    for _ in range(3):
        network.chain[0].learn(x, torch.ones_like(network(x)), 0.1)
    scale = with_integer_weights(plain, 8).scale
    assert ((total / runs - (twin.weight - before)).abs() < 5 * scale * (3 / runs) ** 0.5).all()


def test_codes_stay_in_range_and_saturate(batch):
    for bits, limit in ((8, 127), (6, 31), (4, 7)):
        network = made(bits)
        InPlaceSGD(network, 1e4)
        Pepita(network, batch[0])(*batch)
        codes = network.chain[-1].synapses.codes
        assert codes.abs().max() == limit
        assert (codes == -limit).any()


def test_answers_are_those_of_the_dequantised_weights(batch):
    plain = nn.Linear(12, 7)
    own = with_integer_weights(plain, 8)
    torch.testing.assert_close(own(batch[0]), batch[0] @ (own.codes * own.scale).t() + plain.bias)
    torch.testing.assert_close(own(batch[0]), plain(batch[0]), atol=0.1, rtol=0)
    x = torch.randn(4, 2, 7, 7)
    for conv in (nn.Conv2d(2, 4, 3, 2, 1, groups=2), PaddedConv2d(2, 4, 3, 2, pads=(0, 1, 1, 0))):
        own = with_integer_weights(conv, 8)
        conv.weight.data.copy_(effective_weight(own))
        torch.testing.assert_close(own(x), conv(x))
        torch.testing.assert_close(linear_part(own, x), conv(x) - conv.bias.view(-1, 1, 1))
    assert isinstance(own, IntegerConv2d)


@pytest.mark.parametrize("bits", [8, 4])
def test_pepita_and_mempepita_end_at_the_same_codes(bits, batch):
    ends = []
    for kind in (Pepita, Mempepita, Pepita):
        network = made(bits, bias=True)
        rule = kind(network, batch[0])
        InPlaceSGD(network, 0.5)
        for _ in range(10):
            rule(*batch)
        ends.append(codes_of(network))
    assert all(torch.equal(a, b) for end in ends[1:] for a, b in zip(ends[0], end, strict=True))


def test_the_order_of_a_batch_moves_next_to_no_code(batch):
    ends = []
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    for index in (slice(None), order):
        network = made()
        rule = Pepita(network, batch[0])
        InPlaceSGD(network, 0.5)
        rule(batch[0][index], batch[1][index])
        ends.append(torch.cat([codes.flatten() for codes in codes_of(network)]))
    assert (ends[0] != ends[1]).float().mean() <= 0.01


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("name", NAMES)
def test_every_rule_changes_codes_and_holds_no_float_copy(name, momentum, batch):
    network = made()
    before = codes_of(network)
    rule = rule_class(name)(network, batch[0])
    optimizer = InPlaceSGD(network, 0.5, momentum)
    for _ in range(3):
        assert rule(*batch, torch.arange(20)).loss.isfinite()
    moved = [not torch.equal(a, b) for a, b in zip(before, codes_of(network), strict=True)]
    assert moved == ([False, False, True] if name in CONTROLS else [True] * 3)
    for layer in network.chain:
        weight = layer.synapses.weight
        assert weight.grad is None
        assert weight.untyped_storage().nbytes() == 4
        held = optimizer.state.get(weight, {})
        assert all(t.dtype == torch.int8 for key, t in held.items() if key != "velocity_scale")
        assert bool(held) == bool(momentum and (name not in CONTROLS or layer is network.chain[-1]))


def test_the_second_pass_follows_the_codes(batch):
    network = made()
    rule = Pepita(network, batch[0])
    InPlaceSGD(network, 0.5)
    rule(*batch)
    layer = network.chain[0]
    want = rule.feedback @ effective_weight(layer.synapses).t()
    torch.testing.assert_close(layer.answer_to(rule.feedback, 20, True), want)
    error = torch.randn(20, 3)
    start, *_ = network.stream(batch[0])
    again = next(network.modulated(start, rule.feedback, error))
    torch.testing.assert_close(again.current, layer.synapses(batch[0] - error @ rule.feedback), atol=1e-5, rtol=1e-5)


def test_frozen_layers_rest(batch):
    network = made()
    network.freeze("0")
    before = codes_of(network)
    rule = Backprop(network, batch[0])
    InPlaceSGD(network, 0.5, weight_decay=0.1)
    rule(*batch)
    assert [torch.equal(a, b) for a, b in zip(before, codes_of(network), strict=True)] == [True, False, False]


def test_state_goes_on_where_it_stopped(batch):
    network = made(bias=True)
    rule = Pepita(network, batch[0])
    optimizer = InPlaceSGD(network, 0.5, 0.9)
    for _ in range(2):
        rule(*batch)
    assert not any(key.endswith("synapses.weight") for key in rule.state_dict())
    twin = made(bias=True)
    other = Pepita(twin, batch[0])
    other.load_state_dict(rule.state_dict())
    again = InPlaceSGD(twin, 0.5, 0.9)
    again.load_state_dict(pickle.loads(pickle.dumps(optimizer.state_dict())))
    copied = copy.deepcopy(network)
    for made_rule in (rule, other):
        made_rule(*batch)
    assert all(torch.equal(a, b) for a, b in zip(codes_of(network), codes_of(twin), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(codes_of(network), codes_of(copied), strict=True))
    state = made(4).state_dict() | {"layers.0.synapses.codes": torch.full((16, 12), 9, dtype=torch.int8)}
    with pytest.raises(RuntimeError, match="not integers of 4 bits, from -7 to 7"):
        made(4).load_state_dict(state)


def test_copies_and_moves_make_no_floats(batch):
    network = made()
    for twin in (
        copy.deepcopy(network),
        pickle.loads(pickle.dumps(network)),
        copy.deepcopy(network).to("cpu").double(),
    ):
        own = twin.chain[0].synapses
        assert own.weight.synapses is own
        assert own.weight.shape == (16, 12)
        assert own.weight.untyped_storage().nbytes() == own.scale.element_size()
        x = batch[0].to(own.scale.dtype)
        torch.testing.assert_close(twin(x), network(batch[0]).to(x.dtype))
        InPlaceSGD(twin, 0.1)
        Pepita(twin, x)(x, batch[1])
        assert not torch.equal(own.codes, network.chain[0].synapses.codes)


@pytest.mark.parametrize("name", ["pepita", "backprop"])
def test_a_torch_optimizer_is_refused(name, batch):
    network = made()
    with pytest.raises(
        EdgepepError, match="integer weights, which a torch optimizer cannot change; make an InPlaceSGD"
    ):
        rule_class(name)(network, batch[0])(*batch)


def test_what_cannot_be_is_said():
    with pytest.raises(EdgepepError, match="integer weights of 3 bits; they have 8, 6, 4"):
        with_integer_weights(nn.Linear(3, 2), 3)
    with pytest.raises(EdgepepError, match="reach is nan"):
        with_integer_weights(nn.Linear(3, 2), reach=float("nan"))
    with pytest.raises(EdgepepError, match="Identity cannot have integer weights"):
        with_integer_weights(nn.Identity())
    with pytest.raises(EdgepepError, match="lr is nan"):
        InPlaceSGD(made(), float("nan"))
    with pytest.raises(RecipeError, match="weight_bits of 8, 6, 4, not 3"):
        load("digits-fc").quantized(3, activation_bits=8, weights="integer")
    with pytest.raises(RecipeError, match='reach and output_reach are of weights = "integer"'):
        load("digits-fc").but(quantized={"reach": 2.0})


def test_a_rate_of_nought_moves_nothing(batch):
    network = made()
    before = codes_of(network)
    InPlaceSGD(network, 0.0)
    Pepita(network, batch[0])(*batch)
    assert all(torch.equal(a, b) for a, b in zip(before, codes_of(network), strict=True))


def test_a_product_is_rounded_as_its_matrix_is():
    left, right = torch.randn(8, 30), torch.randn(8, 20)
    ends = []
    for gradient in (Product(left, right), left.t() @ right):
        codes = torch.zeros(30, 20, dtype=torch.int8)
        update_(codes, gradient, torch.ones(()), 0.0, noise.key(3), 127)
        ends.append(codes)
    assert (ends[0] != ends[1]).sum() <= 1


def test_convolutions_learn_too():
    x, target = make_batch("conv")
    recipe = load("mnist-conv").quantized(8, weights="integer")
    assert [type(layer.synapses) for layer in recipe.build().chain] == [IntegerConv2d, IntegerLinear]
    flat = [nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 3, 6, bias=False)]
    network = Network(
        [Layer(with_integer_weights(flat[0]), nn.ReLU()), Layer(with_integer_weights(flat[1]), nn.Flatten())]
    )
    before = codes_of(network)
    InPlaceSGD(network, 0.5)
    Backprop(network, x)(x, target)
    assert not any(torch.equal(a, b) for a, b in zip(before, codes_of(network), strict=True))


def test_a_step_takes_less_memory_than_with_floats():
    held = bytes_held((784, 1024, 10), 16)
    assert held["integer, int8"] < 0.5 * held["plain, fp32"]
    assert held["integer, int8"] < 0.3 * held["float shadow, int8 (Brevitas)"]
    assert held["integer, int8, 8-bit momentum"] < 0.4 * held["plain, fp32, momentum"]


@pytest.mark.parametrize("bits", [8, 4])
def test_learns_digits_beyond_the_frozen_control(bits):
    from edgepep import datasets
    from edgepep.training import evaluate, fit, prepare

    train, test = datasets.load("digits", True), datasets.load("digits", False)
    reached = {}
    own = {"learning_rate": 1.0, "momentum": 0.0} if bits == 8 else {"learning_rate": 0.05, "momentum": 0.9}
    recipe = load("digits-fc").quantized(bits, activation_bits=8, input_bits=8, weights="integer")
    for name in ("pepita", "frozen_hidden"):
        rule, optimizer, scheduler = prepare(recipe.but(rules={name: {"training": own}}), name, 0, train, "cpu")
        for _ in fit(rule, train, optimizer, epochs=30, batch_size=32, scheduler=scheduler):
            pass
        reached[name] = evaluate(rule, test)
    assert reached["pepita"] > reached["frozen_hidden"] + 2, reached


def test_measuring_changes_no_code(batch):
    network = made()
    rule = Backprop(network, batch[0])
    before = codes_of(network)
    found = diagnose(rule, *batch)
    assert all(layer.update_angle < 0.1 for layer in found.layers)
    assert all(torch.equal(a, b) for a, b in zip(before, codes_of(network), strict=True))


def test_codes_change_between_the_passes_of_the_time_local_variant(batch):
    network = made()
    rule = Pepita(network, batch[0], variant="time_local")
    InPlaceSGD(network, 0.5)
    rule(*batch)
    assert all(int(layer.synapses.step) == 2 for layer in network.chain)


def test_a_profile_counts_a_byte_a_code_and_no_shadow():
    network = made()
    x, target = make_batch("mlp")
    found = observe(Pepita(network, x), x, target, InPlaceSGD(network, 0.1, follow=False))
    codes = sum(layer.synapses.codes.numel() for layer in network.chain)
    assert found.memory["parameters"] == codes + 3 * (4 + 4 + 4)  # and a scale, a counter and the one number seen
    assert found.memory["optimizer state"] == 0
    assert found.macs["update"] == 20 * codes
