"""A user's modules as networks: the same answers, the same weights, the same gradients; or an error that helps."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from edgepep import ConversionError, InPlaceSGD, convert, plugins, rules
from edgepep.build import rule_class
from edgepep.neurons import Dropout, Leaky

NAMES = plugins.in_package(rules)


class Depthwise(nn.Module):
    """Inverted residual block of MobileNetV2."""

    def __init__(self, channels):
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(channels, 12, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU6(inplace=True))
        self.depthwise = nn.Sequential(
            nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False), nn.BatchNorm2d(12), nn.ReLU6(inplace=True)
        )
        self.project = nn.Sequential(nn.Conv2d(12, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x):
        return x + self.project(self.depthwise(self.expand(x)))


class Mixer(nn.Module):
    """MLP-Mixer: linear layers over tokens and over channels, with sums around them."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(8), nn.LayerNorm(8), nn.RMSNorm(8)
        self.tokens = nn.Sequential(nn.Linear(16, 10), nn.GELU(), nn.Linear(10, 16))
        self.channels = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.channels(self.norm2(x))
        return self.head(self.norm3(x).mean(1))


def small_resnet():
    return torchvision.models.resnet18(num_classes=10)


def mobile():
    stem = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU6(inplace=True))
    return nn.Sequential(stem, Depthwise(6), Depthwise(6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10))


def one_dimensional():
    return nn.Sequential(
        nn.Conv1d(2, 6, 5, padding=2, padding_mode="circular"),
        nn.Tanh(),
        nn.AvgPool1d(2),
        nn.Conv1d(6, 6, 3, dilation=2, groups=2, padding="same"),
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(60, 10),
    )


class Functional(nn.Module):
    """Everything by functions, the size read from the tensor."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc1, self.fc2 = (
            nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
            nn.Linear(256, 20),
            nn.Linear(20, 10),
        )

    def forward(self, x):
        x = nn.functional.max_pool2d(nn.functional.relu(self.conv(x), inplace=True), 2)
        x = x.view(x.size(0), -1)
        return nn.functional.log_softmax(self.fc2(torch.relu(self.fc1(x))), dim=1)


IMAGE = (4, 3, 16, 16)
USERS = {
    "resnet18": (small_resnet, (4, 3, 32, 32)),
    "mobile": (mobile, IMAGE),
    "conv1d": (one_dimensional, (4, 2, 20)),
    "mixer": (Mixer, IMAGE),
    "functional": (Functional, IMAGE),
    "linear": (lambda: nn.Linear(12, 10), (4, 12)),
}
each = pytest.mark.parametrize("name", USERS)


def made(name):
    torch.manual_seed(0)
    build, shape = USERS[name]
    module = build()
    for m in module.modules():  # statistics and scales as after some training, not the neutral ones of a new module
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.1)
            m.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(m.weight, 0.5, 1.5)
    return module, torch.randn(shape), torch.randint(10, (shape[0],))


@each
def test_answers_bit_for_bit_and_shares_its_weights(name):
    module, x, _ = made(name)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    network = convert(module, x)
    assert module.training
    assert network.training
    assert torch.equal(module.eval()(x), network.eval()(x))
    assert {id(p) for p in module.parameters()} == {id(p) for p in network.parameters()}
    assert sum(b.numel() for b in network.state_dict().values()) == sum(b.numel() for b in before.values())
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    twin = copy.deepcopy(module).train()
    assert torch.equal(twin(x), network.train()(x))
    for (key, a), b in zip(twin.state_dict().items(), module.state_dict().values(), strict=True):
        assert torch.equal(a, b), key  # running statistics, updated once


@each
def test_backpropagation_gives_autograds_gradients(name):
    module, x, target = made(name)
    twin = copy.deepcopy(module)
    nn.functional.cross_entropy(twin(x), target).backward()
    network = convert(module, x)
    rule_class("backprop")(network, x)(x, target)
    for (path, p), q in zip(module.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad), path


@each
def test_feedback_set_to_the_weights_is_backpropagation(name):
    module, x, target = made(name)
    twin = copy.deepcopy(module).double()
    nn.functional.cross_entropy(twin(x.double()), target).backward()
    network = convert(module.double(), x.double())
    rule = rule_class("feedback_alignment")(network, x.double())
    for i, feedback in rule.feedback.items():
        feedback.codes.copy_(network.chain[int(i)].synapses.weight)
    rule(x.double(), target)
    for (path, p), q in zip(module.named_parameters(), twin.named_parameters(), strict=True):
        torch.testing.assert_close(p.grad, q[1].grad, atol=1e-8, rtol=1e-6, msg=path)


@each
@pytest.mark.parametrize("rule", NAMES)
def test_every_rule_takes_a_step(name, rule):
    module, x, target = made(name)
    network = convert(module, x)
    learner = rule_class(rule)(network, x)
    InPlaceSGD(network, 1e-3, 0.9)
    before = {k: p.detach().clone() for k, p in module.named_parameters()}
    outcome = learner(x, target)
    assert outcome.loss.isfinite()
    moved = [k for k, p in module.named_parameters() if not torch.equal(p, before[k])]
    assert moved
    assert all(p.isfinite().all() for p in module.parameters())
    weights = [k for k, p in module.named_parameters() if p.dim() > 1]
    if rule not in ("frozen_hidden", "last_layer"):
        assert set(weights) <= set(moved)


def test_running_statistics_move_once_a_step_and_may_be_fixed():
    module, x, target = made("mobile")
    twin = copy.deepcopy(module)
    rule_class("pepita")(convert(module, x), x)(x, target)
    twin(x)
    for a, b in zip(module.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(a, b)
    network = convert(module, x, statistics="running")
    before = [b.clone() for b in module.buffers()]
    rule_class("feedback_alignment")(network, x)(x, target)
    assert all(torch.equal(a, b) for a, b in zip(before, module.buffers(), strict=True))


def test_scale_and_shift_rest_under_pepita():
    module, x, target = made("mobile")
    network = convert(module, x)
    rule_class("pepita")(network, x)(x, target)
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(m.weight.grad is None for m in norms)


def test_dropout_is_shared_by_the_passes():
    module = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 10))
    network = convert(module, torch.randn(4, 6))
    assert isinstance(network.chain[0].neurons[1], Dropout)


def test_a_brevitas_module_is_compared_before_rounding():
    from brevitas.nn import QuantConv2d, QuantIdentity, QuantLinear, QuantReLU

    torch.manual_seed(0)
    module = nn.Sequential(
        QuantIdentity(bit_width=8),
        QuantConv2d(3, 4, 3, weight_bit_width=4, bias=False),
        QuantReLU(bit_width=4),
        nn.MaxPool2d(2),
        nn.Flatten(),
        QuantLinear(4 * 49, 10, bias=True, weight_bit_width=8),
    )
    x, target = torch.rand(8, 3, 16, 16), torch.randint(10, (8,))
    for _ in range(5):
        module(x)
    network = convert(module, x)
    assert torch.equal(module.eval()(x), network.eval()(x))
    assert isinstance(network.chain[0].neurons, nn.ReLU)
    network.train()
    for name in NAMES:
        learner = rule_class(name)(convert(copy.deepcopy(module).train(), x), x)
        assert learner(x, target).loss.isfinite(), name


def test_an_snntorch_network_spikes_as_it_did():
    import snntorch as snn
    from snntorch import utils

    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Flatten(),
        nn.Linear(48, 30),
        snn.Leaky(beta=0.8, threshold=0.6, init_hidden=True),
        nn.Linear(30, 20),
        snn.Leaky(beta=0.9, init_hidden=True),
        nn.Linear(20, 10),
    )
    x, target = torch.rand(8, 3, 4, 4) * 3, torch.randint(10, (8,))
    network = convert(module, x, steps=12)
    assert sum(isinstance(m, Leaky) for m in network.modules()) == 2
    utils.reset(module)
    with torch.no_grad():
        want = torch.stack([module(x) for _ in range(12)]).mean(0)
        got = network(x)
    assert want.any()
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    for name in NAMES:
        learner = rule_class(name)(convert(copy.deepcopy(module), x, steps=12), x)
        assert learner(x, target).loss.isfinite(), name


def test_an_snntorch_network_may_end_in_spikes():
    import snntorch as snn
    from snntorch import utils

    module = nn.Sequential(nn.Linear(6, 8), snn.Leaky(0.9, init_hidden=True), nn.Linear(8, 4))
    module.append(snn.Leaky(0.9, init_hidden=True, output=True))
    x = torch.rand(5, 6) * 4
    network = convert(module, x, steps=7)
    utils.reset(module)
    with torch.no_grad():
        want = torch.stack([module(x)[0] for _ in range(7)]).mean(0)
    torch.testing.assert_close(network(x), want)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.deep = nn.Sequential(nn.Linear(6, 6), nn.MultiheadAttention(6, 2))
        self.out = nn.Linear(6, 2)

    def forward(self, x):
        return self.out(self.deep[1](x, x, x)[0])


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x):
        return self.inner(self.inner(x))


class Decides(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 2)

    def forward(self, x):
        return self.fc(x) if x.sum() > 0 else -self.fc(x)


class Joins(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(8, 2)

    def forward(self, x):
        return self.out(torch.cat([self.a(x), self.b(x)], 1))


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.gain = nn.Linear(6, 2), nn.Parameter(torch.ones(6))

    def forward(self, x):
        return self.fc(x * self.gain)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (Attention(), r"deep\.1 \(MultiheadAttention\).*freeze"),
        (Twice(), r"inner \(Linear\) is used twice"),
        (Decides(), r"forward of Decides.*control flow"),
        (Joins(), r"cat.*joins 2 tensors"),
        (Scaled(), r"the parameter gain is used directly"),
        (nn.Sequential(nn.Linear(6, 3), nn.ConvTranspose1d(3, 3, 3)), r"1 \(ConvTranspose1d\).*register"),
        (nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Unflatten(1, (2, 2)), nn.Flatten()), r"goes on after its last"),
        (nn.Sequential(nn.Linear(6, 4), nn.Dropout1d(0.5), nn.Linear(4, 2)), r"Dropout1d draws a new mask"),
        (nn.Sequential(nn.Flatten()), r"last layer with weights"),
        (nn.Sequential(nn.Linear(5, 2)), r"does not run on the example"),
        (nn.Conv1d(6, 2, 1), r"answers \[4, 2, 1\]|does not run"),
    ],
)
def test_what_cannot_be_converted_is_named(module, said):
    with pytest.raises(ConversionError, match=said):
        convert(module, torch.randn(4, 6))


def test_snntorch_settings_that_differ_are_named():
    import snntorch as snn

    for options, said in (
        ({"reset_mechanism": "zero", "init_hidden": True}, "reset_mechanism='zero'"),
        ({"init_hidden": True, "learn_beta": True}, "beta"),
        ({}, "init_hidden=False"),
    ):
        module = nn.Sequential(nn.Linear(6, 4), snn.Leaky(0.9, **options), nn.Linear(4, 2))
        with pytest.raises(ConversionError, match=said):
            convert(module, torch.randn(3, 6), steps=5)
    module = nn.Sequential(nn.Linear(6, 4), snn.Leaky(0.9, init_hidden=True), nn.Linear(4, 2))
    with pytest.raises(ConversionError, match="steps="):
        convert(module, torch.randn(3, 6))
