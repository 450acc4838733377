"""The C that is exported, compiled here and called: its answers, its training steps, its memory."""

import ctypes
import math

import pytest
import torch
from torch import nn

from edgepep import ExportError, Layer, Network, load
from edgepep.c99 import plan, read
from edgepep.c99.host import compiler
from edgepep.profiling.costs import costs
from edgepep.profiling.subject import subject
from edgepep.synapses import calibrate
from tests.c99_networks import NETWORKS, RULES, exported, made, ruled, trained

compiled = pytest.mark.skipif(
    compiler() is None, reason="there is no C compiler here (install gcc, or name one in $CC)"
)
RATE = 0.2


@compiled
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_step_in_c_is_the_rules_own(kind, name, tmp_path):
    network, x, y = made(kind)
    rule = ruled(network, x, name)
    rate = RATE / 10 if name == "drtp" else RATE  # with ReLU it grows fast
    planned, host = exported(network, x, y, rule, tmp_path / "c")
    with torch.no_grad():
        assert (host.infer(x[0]) - network.eval()(x[:1])[0]).abs().max() < 1e-5
    for sample, target in zip(x, y.tolist(), strict=True):
        said = int(host.infer(sample).argmax())
        assert host.learn(sample, target, rate) == said
    ours, (theirs, *_) = trained(rule, x, y, rate), made(kind)
    assert read(theirs, x, host.save(), ruled(theirs, x, name)) == len(x)
    for layer, mine, its in zip(network.chain, ours.parameters(), theirs.parameters(), strict=False):
        assert (mine - its).abs().max() < 1e-5, layer.name
    moved = [float((a - b).detach().abs().max()) for a, b in zip(network.parameters(), ours.parameters(), strict=True)]
    assert sum(m > 1e-4 for m in moved) >= (1 if name == "last_layer" else len(moved) - 1)
    assert host.touched(x[0], 0, RATE) == planned.arena == host.sizes["EP_ARENA"]


@compiled
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("mlp", "pepita"),
        ("mlp", "last_layer"),
        ("depthwise", "mempepita"),
        ("depthwise", "backprop"),
        ("conv", "pepita"),
        ("conv", "dfa"),
        ("residual", "drtp"),
        ("conv", "local_heads"),
        ("normed", "pepita"),
    ],
)
def test_codes_move_as_in_torch(kind, name, tmp_path):
    network, x, y = made(kind, integer=True)
    rule = ruled(network, x, name)
    planned, host = exported(network, x, y, rule, tmp_path / "c")
    assert planned.precision == "int8"
    for sample, target in zip(x, y.tolist(), strict=True):
        host.learn(sample, target, RATE)
    ours = trained(rule, x, y, RATE).state_dict()
    theirs, *_ = made(kind, integer=True)
    read(theirs, x, host.save(), ruled(theirs, x, name))
    before, after = network.state_dict(), theirs.state_dict()
    codes = [key for key in ours if key.endswith("codes")]
    assert sum(int((ours[key] != before[key]).sum()) for key in codes) > 5
    assert sum(int((ours[key] != after[key]).sum()) for key in codes) == 0
    assert int(theirs.chain[-1].synapses.step) == len(x)  # the next export goes on with the next random bits
    assert host.touched(x[0], 0, RATE) == planned.arena


@compiled
@pytest.mark.parametrize("name", ["pepita", "mempepita"])
def test_integer_weights_and_rounded_activities_of_a_recipe(name, tmp_path):
    recipe = load("digits-fc").quantized(8, weights="integer")
    network, x, y = recipe.build(), torch.rand(8, 1, 8, 8), torch.arange(8)
    calibrate(network.train(), [x])
    rule = recipe.make_rule(network.eval(), name)
    planned, host = exported(network, x, y, rule, tmp_path / "c")
    before = {k: v.clone() for k, v in network.state_dict().items() if k.endswith("codes")}
    with torch.no_grad():
        assert (host.infer(x[0]) - network(x[:1])[0]).abs().max() < 1e-4
    for sample, target in zip(x, y.tolist(), strict=True):
        host.learn(sample, target, RATE)
    ours = trained(rule, x, y, RATE).state_dict()
    theirs = recipe.build()
    calibrate(theirs.train(), [x])
    read(theirs.eval(), x, host.save())
    after = theirs.state_dict()
    moved = sum(int((ours[key] != codes).sum()) for key, codes in before.items())
    assert sum(int((ours[key] != after[key]).sum()) for key in before) <= moved // 100
    assert moved > 100
    assert host.touched(x[0], 0, RATE) == planned.arena
    with pytest.raises(ExportError, match="layer 0 reads rounded activities"):
        plan(network, x, recipe.make_rule(network, "backprop"))


@compiled
def test_mempepita_is_pepita_bit_for_bit(tmp_path):
    for integer in (False, True):
        blobs = []
        for name in ("pepita", "mempepita"):
            network, x, y = made("residual", integer)
            _, host = exported(network, x, y, ruled(network, x, name), tmp_path / f"{name}{integer}")
            for sample, target in zip(x, y.tolist(), strict=True):
                host.learn(sample, target, RATE)
            blobs.append(host.save())
        assert blobs[0] == blobs[1]


@compiled
@pytest.mark.parametrize("options", [{}, {"storage": "seed"}, {"seed": 7, "sign": 1}])
def test_feedback_is_drawn_with_the_same_bits(options, tmp_path):
    network, x, y = made("mlp")
    rule = ruled(network, x, "pepita", **options)
    planned, host = exported(network, x, y, rule, tmp_path / "c")
    key, bound = planned.feedback["F"]
    zero, answer = (ctypes.c_float * 6)(), (ctypes.c_float * 6)()
    for label, row in enumerate(rule.feedback):
        error = (ctypes.c_float * 3)(*[float(i == label) for i in range(3)])
        host.library.ep_modulate(6, 3, zero, error, answer, ctypes.c_uint32(key), ctypes.c_float(bound))
        assert torch.equal(-torch.tensor(answer[:]), row)


@compiled
def test_maps_of_layers_are_drawn_with_the_same_bits(tmp_path):
    network, x, y = made("mlp")
    rule = ruled(network, x, "dfa", storage="seed", seed=3)
    planned, host = exported(network, x, y, rule, tmp_path / "c")
    assert sorted(planned.feedback) == ["D0", "D1"]
    host.library.ep_feedback.restype = ctypes.c_float
    h, answer = (ctypes.c_float * 9)(*[1.0] * 9), (ctypes.c_float * 9)()
    for name, (key, bound) in planned.feedback.items():
        given = ctypes.c_uint32(key), ctypes.c_float(bound)
        for label, row in enumerate(rule.feedback[name[1:]]()):
            values = [host.library.ep_feedback(given[0], 9 * label + i, given[1]) for i in range(9)]
            assert torch.equal(torch.tensor(values), row)
            error = (ctypes.c_float * 3)(*[float(i == label) for i in range(3)])
            host.library.ep_send(9, 3, error, h, answer, *given, 1)
            assert torch.equal(torch.tensor(answer[:]), row)


@compiled
def test_feedback_scaled_to_a_strength_is_found_again(tmp_path):
    network, x, y = made("mlp")
    rule = ruled(network, x, "pepita", strength=0.05)
    with pytest.raises(ExportError, match="train the rule for a step"):
        plan(network, x, rule)
    rule(x, y)
    network.zero_grad()
    _, host = exported(network, x, y, rule, tmp_path / "c")
    host.learn(x[0], int(y[0]), RATE)
    theirs, *_ = made("mlp")
    read(theirs, x, host.save())
    ours = trained(rule, x[:1], y[:1], RATE)
    for mine, its in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert (mine - its).abs().max() < 1e-6


@compiled
def test_layers_that_rest_stay_in_flash(tmp_path):
    network, x, y = made("conv", depth=3)
    network.freeze("0")
    whole, *_ = made("conv", depth=3)
    for name in ("pepita", "backprop"):
        rule = ruled(network, x, name)
        planned, host = exported(network, x, y, rule, tmp_path / name)
        assert planned.weights < plan(whole, x, ruled(whole, x, name)).weights
        for sample, target in zip(x, y.tolist(), strict=True):
            host.learn(sample, target, RATE)
        theirs, *_ = made("conv", depth=3)
        read(theirs, x, host.save())
        for mine, its in zip(trained(rule, x, y, RATE).parameters(), theirs.parameters(), strict=True):
            assert (mine - its).abs().max() < 1e-5


@compiled
def test_the_exponential_and_an_inference_without_a_rule(tmp_path):
    network, x, y = made("mlp")
    planned, host = exported(network, x, y, None, tmp_path / "c")
    host.library.ep_exp.restype = ctypes.c_float
    for i in range(2000):
        at = ctypes.c_float(-i / 25)
        assert host.library.ep_exp(at) == pytest.approx(math.exp(at.value), rel=3e-7, abs=1e-37)
    assert planned.weights == 0
    with pytest.raises(ExportError, match="only infers"):
        host.learn(x[0], 0, RATE)
    assert host.touched(x[0], 0, RATE) == planned.arena


def test_a_plan_needs_no_more_than_the_profiler_says_and_leaves_no_gap():
    for model in ("digits-fc", "mnist-conv", "ds-cnn", "resnet8"):
        profiled, recipe = subject(model), load(model)
        for name in RULES:
            network = (recipe if name == "drtp" else recipe.under(name)).build()  # its own neurons have no form in C
            planned = plan(network, torch.zeros(1, *profiled.shape), recipe.make_rule(network, name))
            device = costs(profiled, name, batch=1, seeded=True).device
            assert planned.arena <= device.arena, (model, name)
            heads = device.feedback if name == "local_heads" else 0
            assert abs(planned.weights - device.weights - heads) <= 4 * 30
            assert planned.arena == 4 * planned.learn[1].size == 4 * planned.learn[1].used, (model, name)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([Layer(nn.Linear(6, 4), nn.Tanh()), Layer(nn.Linear(4, 3))], ["layer 0", "Tanh"]),
        ([Layer(nn.Linear(6, 4), nn.ReLU(), nn.LayerNorm(6)), Layer(nn.Linear(4, 3))], ["layer 0", "LayerNorm"]),
        ([Layer(nn.Linear(6, 3), nn.ReLU())], ["the output", "without neurons"]),
    ],
)
def test_what_has_no_kernel_is_refused_by_name(layers, words):
    with pytest.raises(ExportError) as refused:
        plan(Network(layers), torch.rand(2, 6))
    assert all(word in str(refused.value) for word in words)


def test_pools_that_overlap_options_and_rules_without_a_form_are_refused():
    network = Network(
        [
            Layer(nn.Conv2d(1, 2, 3), nn.ReLU()),
            Layer(nn.Linear(8, 3), None, nn.Sequential(nn.MaxPool2d(3, 1), nn.Flatten())),
        ]
    )
    x = torch.rand(2, 1, 6, 6)
    with pytest.raises(ExportError, match="side by side"):
        plan(network, x)
    network, x, _ = made("mlp")
    for options, said in (
        ({"limit": 0.1}, "limit=0.1"),
        ({"storage": "int8"}, "'int8'"),
        ({"feedback": "product"}, "seed"),
    ):
        with pytest.raises(ExportError, match=said):
            plan(network, x, ruled(network, x, "pepita", **options))
    for options, said in (({"form": "channel"}, "form='channel'"), ({"sign": True}, "sign=True")):
        with pytest.raises(ExportError, match=said):
            plan(network, x, ruled(network, x, "dfa", **options))
    with pytest.raises(ExportError, match=r"usf has no form in C. There are: pepita"):
        plan(network, x, ruled(network, x, "usf"))
    with pytest.raises(ExportError, match="'fp32', 'int8'"):
        plan(network, x, None, "int4")
    network.freeze("1")
    with pytest.raises(ExportError, match="layer 1 rests above one that learns"):
        plan(network, x, ruled(network, x, "backprop"))
