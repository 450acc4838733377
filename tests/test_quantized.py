"""Quantised layers: our arithmetic against Brevitas', bit for bit; networks as users write them, under every rule."""

import copy
import warnings
from functools import partial

import pytest
import torch
from brevitas.nn import QuantConv1d, QuantConv2d, QuantIdentity, QuantLinear, QuantReLU
from brevitas.quant import (
    Int8ActPerTensorFixedPoint,
    Int8ActPerTensorFloat,
    Int8WeightPerTensorFloatMSE,
    ShiftedUint8WeightPerTensorFloat,
    SignedBinaryWeightPerTensorConst,
    SignedTernaryWeightPerTensorConst,
    Uint8ActPerTensorFixedPoint,
    Uint8ActPerTensorFloatMaxInit,
)
from torch import nn
from torch.nn.functional import mse_loss

from edgepep import (
    ConversionError,
    EdgepepError,
    InPlaceSGD,
    RecipeError,
    convert,
    export,
    fakequant,
    load,
    plugins,
    rules,
)
from edgepep.build import rule_class
from edgepep.fakequant import QuantiserWarning, quantised_weight, quick, rounded
from edgepep.integers import Coded
from edgepep.local import effective_weight
from edgepep.quantisers import weights
from edgepep.synapses import Quantiser, calibrate, conv, linear
from tests.conftest import make_network

SYNAPSES = {
    "linear": (partial(QuantLinear, 33, 8), (5, 33)),
    "conv1d": (partial(QuantConv1d, 4, 8, 3, stride=2, padding=1), (5, 4, 9)),
    "conv2d": (partial(QuantConv2d, 4, 8, 3, padding=1, groups=2), (5, 4, 7, 6)),
}
SCALES = [(False, False), (True, False), (False, True), (True, True)]
GRIDS = [(b, *s) for b in (8, 6, 4, 3, 2) for s in SCALES] + [(1, False, False), (1, True, False)]
NAMES = plugins.in_package(rules)


def extreme(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """Weights at which scales and roundings go wrong first."""
    one = torch.zeros_like(weight)
    one.view(-1)[3] = -2.5
    outlier = weight.clone()
    outlier.view(-1)[-1] = 1e4
    ties = (weight * 100).round() / 2
    ties.view(-1)[0] = 63.5
    some = {"random": weight, "zeros": torch.zeros_like(weight), "one": one, "outlier": outlier, "ties": ties}
    factors = {"tiny": 1e-12, "subnormal": 1e-40, "huge": 1e36}
    dead = weight.clone()
    dead[2] = 0
    return some | {name: weight * f for name, f in factors.items()} | {"dead channel": dead, "negative": -weight.abs()}


@pytest.mark.parametrize(("bits", "per_channel", "power_of_two"), GRIDS)
@pytest.mark.parametrize("kind", SYNAPSES)
@torch.no_grad()
def test_bit_for_bit_as_brevitas(kind, bits, per_channel, power_of_two):
    torch.manual_seed(bits)
    make, shape = SYNAPSES[kind]
    own = make(bias=True, **weights(bits, per_channel=per_channel, power_of_two=power_of_two))
    x = torch.randn(shape)
    for name, value in extreme(torch.randn_like(own.weight)).items():
        own.weight.copy_(value)
        assert (quantised_weight(own) - own.quant_weight().value).abs().max() == 0, name
        assert torch.equal(quick(own)(x), own(x)), name
        assert quick(own) is not own
        own.weight.mul_(1.3)
        assert torch.equal(quick(own)(x), own(x)), name
    assert torch.equal(effective_weight(own), own.quant_weight().value)


@torch.no_grad()
def test_one_bit_is_the_sign_times_the_mean():
    own = linear(20, 6, bias=False, bits=1)
    mean = own.weight.abs().mean()
    torch.testing.assert_close(own.quant_weight().value, torch.where(own.weight >= 0, mean, -mean))
    own = conv(3, 6, 3, bias=False, bits=1, per_channel=True)
    mean = own.weight.abs().mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(own.quant_weight().value, torch.where(own.weight >= 0, mean, -mean))
    assert own.quant_weight().scale.shape == (6, 1, 1, 1)
    torch.testing.assert_close(Coded(own, 0, "c")(torch.ones(1, 3, 3, 3)), own(torch.ones(1, 3, 3, 3)))


@torch.no_grad()
def test_brevitas_own_binary_weights_are_clipped_as_it_clips_them():
    ours = QuantLinear(12, 5, bias=False, weight_quant=SignedBinaryWeightPerTensorConst)
    theirs = copy.deepcopy(ours)
    assert torch.equal(quantised_weight(ours), theirs.quant_weight().value)
    assert torch.equal(ours.weight, theirs.weight)
    assert ours.weight.abs().max() <= 0.1


@pytest.mark.parametrize("bits", [8, 6, 4, 3, 2, 1])
@pytest.mark.parametrize(
    "make",
    [
        QuantReLU,
        QuantIdentity,
        partial(QuantReLU, act_quant=Uint8ActPerTensorFixedPoint),
        partial(QuantIdentity, act_quant=Int8ActPerTensorFixedPoint),
        partial(QuantReLU, act_quant=Uint8ActPerTensorFloatMaxInit, max_val=1.7),
    ],
)
@torch.no_grad()
def test_activities_bit_for_bit_as_brevitas(make, bits):
    torch.manual_seed(0)
    own = make(bit_width=bits)
    for _ in range(4):
        for _ in range(3):
            own(3 * torch.randn(40, 7))
        own.eval()
        for x in (
            torch.randn(50, 7),
            1e5 * torch.randn(50, 7),
            torch.zeros(3, 7),
            torch.tensor([torch.inf, -torch.inf]),
        ):
            assert torch.equal(rounded(own, x), own(x))
        own.train()  # and calibrate further
    assert fakequant._activities[own].grid is not None
    for p in own.parameters():
        p.mul_(0.7)  # a learned scale that changes
    own.eval()
    assert torch.equal(rounded(own, x), own(x))


@torch.no_grad()
def test_a_weight_is_quantised_once_a_step_and_never_stale():
    own = linear(20, 6, bias=False, bits=4)
    first = quantised_weight(own)
    assert quantised_weight(own) is first
    own.weight.add_(0.1)
    second = quantised_weight(own)
    assert second is not first
    assert torch.equal(second, own.quant_weight().value)
    own.load_state_dict({"weight": torch.randn(6, 20)})
    assert torch.equal(quantised_weight(own), own.quant_weight().value)
    own.weight = nn.Parameter(torch.randn(6, 20))
    assert torch.equal(quantised_weight(own), own.quant_weight().value)
    own.weight.data = torch.randn(6, 20)
    assert torch.equal(quantised_weight(own), own.quant_weight().value)
    own.eval()
    for _ in range(2):
        own.weight.data.mul_(-1.5)  # what torch does not count
        assert torch.equal(quantised_weight(own), own.quant_weight().value)
    twin = copy.deepcopy(own)
    twin.weight.mul_(2)
    assert torch.equal(quantised_weight(twin), twin.quant_weight().value)


@pytest.mark.parametrize(
    "make",
    [
        partial(torch.optim.SGD, lr=0.1, foreach=True),
        partial(torch.optim.SGD, lr=0.1, foreach=False),
        partial(torch.optim.SGD, lr=0.1, fused=True),
        partial(torch.optim.Adam, lr=0.1),
    ],
)
def test_torch_optimizers_are_noticed(make):
    own = linear(20, 6, bias=False, bits=8)
    optimizer = make(own.parameters())
    for _ in range(3):
        own.weight.grad = torch.randn_like(own.weight)
        with torch.no_grad():
            before = quantised_weight(own)
            optimizer.step()
            assert torch.equal(quantised_weight(own), own.quant_weight().value)
            assert not torch.equal(quantised_weight(own), before)


def test_a_step_of_two_passes_quantises_each_weight_once(batch, monkeypatch):
    network = make_network("quantized")
    rule = rule_class("pepita")(network, batch[0])
    InPlaceSGD(network, 0.01)
    seen = []
    mirror = fakequant.grids.Weights.__call__
    monkeypatch.setattr(fakequant.grids.Weights, "__call__", lambda self, w: seen.append(w) or mirror(self, w))
    for _ in range(3):
        rule(*batch)
    assert len(seen) == 3 * len(network.chain)


def test_recorded_passes_are_brevitas_own():
    own = linear(20, 6, bias=True, bits=4, per_channel=True)
    assert quick(own) is own
    x = torch.randn(5, 20)
    (ours,) = torch.autograd.grad(mse_loss(quick(own)(x), torch.ones(5, 6)), own.weight)
    (theirs,) = torch.autograd.grad(mse_loss(own(x), torch.ones(5, 6)), own.weight)
    assert torch.equal(ours, theirs)
    quantiser = Quantiser(4)
    calibrate(nn.Sequential(quantiser), [x])
    x.requires_grad_()
    (by_input,) = torch.autograd.grad(quantiser(x).sum(), x)
    assert set(by_input.unique().tolist()) <= {0.0, 1.0}


@torch.no_grad()
def test_unknown_quantisers_are_left_to_brevitas_and_said_once(monkeypatch):
    monkeypatch.setattr(fakequant, "_told", set())
    x = torch.randn(5, 12)
    for quant in (SignedTernaryWeightPerTensorConst, ShiftedUint8WeightPerTensorFloat, Int8WeightPerTensorFloatMSE):
        own = QuantLinear(12, 4, bias=True, weight_quant=quant)
        with pytest.warns(QuantiserWarning, match="weights of QuantLinear by .* left to Brevitas"):
            assert torch.equal(quick(own)(x), own(x))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            quick(QuantLinear(12, 4, bias=True, weight_quant=quant))
            assert torch.equal(effective_weight(own), own.quant_weight().value)


@torch.no_grad()
def test_what_is_hooked_or_not_quantised_runs_as_it_is():
    own = linear(12, 4, bias=True, bits=8)
    seen = []
    own.register_forward_hook(lambda *_: seen.append(1))
    quick(own)(torch.randn(2, 12))
    assert seen
    assert quick(plain := QuantLinear(12, 4, bias=True, weight_quant=None)) is plain
    half = linear(12, 4, bias=False, bits=8).double()
    assert quick(half) is half


def brevitas_net(
    bits: int = 4, per_channel: bool = False, power_of_two: bool = False, one_d: bool = False
) -> nn.Module:
    """As users write them, calibrated, and left in train()."""
    torch.manual_seed(0)
    quantised = weights(bits, per_channel=per_channel, power_of_two=power_of_two)
    act = {"act_quant": Uint8ActPerTensorFixedPoint} if power_of_two else {}
    signed = {"act_quant": Int8ActPerTensorFixedPoint} if power_of_two else {}
    convolution = QuantConv1d if one_d else QuantConv2d
    net = nn.Sequential(
        QuantIdentity(bit_width=8, **signed),
        convolution(2, 6, 3, padding=1, bias=True, **quantised),
        QuantReLU(bit_width=max(bits, 2), **act),
        nn.MaxPool1d(2) if one_d else nn.MaxPool2d(2),
        nn.Flatten(),
        QuantLinear(18 if one_d else 54, 16, bias=True, **quantised),
        QuantReLU(bit_width=max(bits, 2), **act),
        QuantLinear(16, 3, bias=False, **quantised),
    )
    for _ in range(3):
        net(torch.randn(32, 2, 6) if one_d else torch.randn(32, 2, 6, 6))
    return net


def examples(one_d: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 2, *(6,) * (1 if one_d else 2), generator=generator)
    return x, torch.randint(3, (20,), generator=generator)


@pytest.mark.parametrize("one_d", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_every_rule_takes_steps(name, one_d):
    x, target = examples(one_d)
    kind, last = rule_class(name), None
    for quantised in (
        {"bits": 8},
        {"bits": 4, "per_channel": True},
        {"bits": 3, "power_of_two": True},
        {"bits": 2, "power_of_two": True, "per_channel": True},
        {"bits": 1},
    ):
        network = convert(brevitas_net(**quantised, one_d=one_d), x)
        before = [
            layer.synapses.weight.detach().clone() for layer in network.chain if hasattr(layer.synapses, "weight")
        ]
        rule = kind(network, x)
        InPlaceSGD(network, 0.01)
        for _ in range(3):
            last = rule(x, target, torch.arange(20)).loss
        assert last.isfinite(), quantised
        after = [layer.synapses.weight for layer in network.chain if hasattr(layer.synapses, "weight")]
        assert not torch.equal(before[-1], after[-1])


@pytest.mark.parametrize("name", ["pepita", "mempepita", "dfa", "backprop"])
def test_the_same_steps_as_by_brevitas_alone(name, monkeypatch):
    x, target = examples()
    ends = []
    for mirrored in (True, False):
        if not mirrored:
            monkeypatch.setattr(fakequant, "_just_computing", lambda: False)
        network = convert(brevitas_net(4, per_channel=True), x)
        rule = rule_class(name)(network, x)
        InPlaceSGD(network, 0.05, 0.9)
        for _ in range(5):
            rule(x, target)
        ends.append([p.detach().clone() for p in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_a_network_left_in_train_does_not_diverge_and_is_left_as_it_was():
    module, (x, target) = brevitas_net(8), examples()
    modes = {name: m.training for name, m in module.named_modules()}
    counters = [m.counter for m in module.modules() if hasattr(m, "counter")]
    buffers = {k: v.clone() for k, v in module.named_buffers()}
    network = convert(module, x).train()
    scales = [m.quantise.act_quant.scale() for m in network.modules() if isinstance(m, Quantiser)]
    rule = rule_class("pepita")(network, x)
    InPlaceSGD(network, 0.05, 0.9)
    losses = [float(rule(x, target).loss) for _ in range(200)]
    assert max(losses) < 3 * losses[0]
    assert sum(losses[-20:]) < sum(losses[:20])
    now = [m.quantise.act_quant.scale() for m in network.modules() if isinstance(m, Quantiser)]
    assert all(torch.equal(a, b) for a, b in zip(scales, now, strict=True))
    assert modes == {name: m.training for name, m in module.named_modules()}
    assert counters == [m.counter for m in module.modules() if hasattr(m, "counter")]
    assert all(torch.equal(buffers[k], v) for k, v in module.named_buffers())
    assert module[5].weight is network.chain[1].synapses.weight


def test_both_passes_round_alike_and_the_difference_is_of_what_is_not_rounded():
    x, _ = examples()
    network = convert(brevitas_net(2), x)
    with torch.no_grad():
        first, again = list(network.stream(x)), list(network.stream(x))
        still = list(network.modulated(first[0], torch.zeros(3, *x.shape[1:]), torch.zeros(20, 3)))
        for a, b, c in zip(first, again, still, strict=True):
            assert torch.equal(a.post, b.post)
            assert torch.equal(a.post, c.post)
        assert torch.equal(first[0].post, first[0].current.relu())  # not on the grid of two bits
        feedback = torch.full((3, *x.shape[1:]), 1e-4)
        pre = next(network.modulated(first[0], feedback, torch.ones(20, 3))).pre
    torch.testing.assert_close(first[0].pre - pre, torch.full_like(pre, 3e-4), atol=1e-6, rtol=1e-2)


def small(*first: nn.Module) -> nn.Module:
    net = nn.Sequential(*first, QuantLinear(10, 3, bias=False))
    with torch.no_grad():
        net(torch.rand(8, 12))
    return net


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: small(QuantLinear(12, 10, bias=False, weight_bit_width=0)),
            "0 .QuantLinear. has integer weights of 0 bits",
        ),
        (lambda: small(QuantLinear(12, 10, bias=False, weight_bit_width=1)), "nothing but 0; take 2 or more"),
        (
            lambda: small(QuantLinear(12, 10, bias=False, weight_quant=Int8WeightPerTensorFloatMSE)),
            "a weight quantiser that learns",
        ),
        (
            lambda: small(QuantLinear(12, 10, bias=False, input_quant=Int8ActPerTensorFloat)),
            "put a QuantIdentity before",
        ),
        (
            lambda: small(QuantLinear(12, 10, bias=False, output_quant=Int8ActPerTensorFloat)),
            "put a QuantIdentity after",
        ),
        (
            lambda: small(nn.Linear(12, 10), QuantReLU(act_quant=Int8ActPerTensorFloat)),
            "1 .QuantReLU. has signed codes",
        ),
        (lambda: small(nn.Linear(12, 10), QuantReLU(bit_width=0)), "codes of 0 bits"),
    ],
)
def test_the_impossible_is_refused(make, said):
    with pytest.raises(ConversionError, match=said):
        convert(make(), torch.rand(8, 12))


def test_impossible_words_are_refused():
    with pytest.raises(EdgepepError, match="weights are quantised to 0 bits"):
        linear(3, 4, bias=False, bits=0)
    with pytest.raises(EdgepepError, match="activities are quantised to 0 bits"):
        Quantiser(0)
    with pytest.raises(EdgepepError, match="take 2 bits or more"):
        linear(3, 4, bias=False, bits=1, power_of_two=True)
    with pytest.raises(RecipeError, match="no power of two"):
        load("digits-fc").quantized(8, weight_bits=1, power_of_two=True)


@pytest.mark.parametrize("words", [{}, {"per_channel": True}, {"power_of_two": True}, {"weight_bits": 1}])
def test_recipes_train_at_every_grid_and_export(words, tmp_path):
    recipe = load("digits-fc").quantized(8, **words)
    network, (x, target) = recipe.build(), (torch.rand(20, 1, 8, 8), torch.randint(10, (20,)))
    rule = recipe.make_rule(network)
    calibrate(network, [x])
    InPlaceSGD(network, 0.01)
    for _ in range(3):
        rule(x, target)
    network.eval()
    before = network(x)
    export.save(network, tmp_path / "net.onnx", "onnx_qcdq", x)
    with torch.no_grad():
        assert torch.equal(network(x), before)
