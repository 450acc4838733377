"""A user's modules as networks: the same answers, the same weights, the same gradients; or an error that helps."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from edgepep import ConversionError, EdgepepError, InPlaceSGD, convert, plugins, rules
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
    from snntorch.functional.quant import state_quant

    for options, said in (
        ({"init_hidden": True, "state_quant": state_quant(4)}, "state_quant"),
        ({}, "does not run on the example"),
    ):
        module = nn.Sequential(nn.Linear(6, 4), snn.Leaky(0.9, **options), nn.Linear(4, 2))
        with pytest.raises(ConversionError, match=said):
            convert(module, torch.randn(3, 6), steps=5)
    module = nn.Sequential(nn.Linear(6, 4), snn.Leaky(0.9, init_hidden=True), nn.Linear(4, 2))
    with pytest.raises(ConversionError, match="steps="):
        convert(module, torch.randn(3, 6))


def _mlp(*middle):
    return nn.Sequential(nn.Linear(20, 8), *middle, nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))


VECTORS, CLASSES = torch.randn(16, 20, generator=torch.Generator().manual_seed(1)), torch.arange(16) % 4


@pytest.mark.parametrize("rule", NAMES)
def test_running_statistics_move_once_under_every_rule(rule):
    module = _mlp(nn.BatchNorm1d(8), nn.ReLU())
    network = convert(module, VECTORS)
    options = {"adversarial": 0.1} if "pepita" in rule else {}
    learner = rule_class(rule)(network, VECTORS, **options)
    learner(VECTORS, CLASSES)
    learner(VECTORS, CLASSES)
    assert module[1].num_batches_tracked == 2


@pytest.mark.parametrize("width", [8, 16])
def test_batch_normalisation_of_spiking_layers_is_over_channels(width):
    import snntorch as snn

    module = nn.Sequential(nn.Linear(20, width), nn.BatchNorm1d(width), snn.Leaky(0.9, init_hidden=True))
    module.extend([nn.Linear(width, 4), snn.Leaky(0.9, init_hidden=True, output=True)])
    network = convert(module, VECTORS, steps=5)
    for name in NAMES:
        assert rule_class(name)(network, VECTORS)(VECTORS, CLASSES).loss.isfinite(), name
    assert network(VECTORS).shape == (16, 4)


def test_pooled_currents_may_spike():
    import snntorch as snn

    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), snn.Leaky(0.9, init_hidden=True))
    module.extend([nn.Flatten(), nn.Linear(36, 4)])
    x = torch.rand(5, 3, 8, 8) * 5
    network = convert(module, x, steps=6)
    assert rule_class("feedback_alignment")(network, x)(x, torch.arange(5) % 4).loss.isfinite()


@pytest.mark.parametrize("rule", ["dfa", "f3", "usf", "drtp", "spela", "feedback_alignment"])
def test_integer_inputs_behind_a_frozen_embedding(rule):
    embedding = nn.Embedding(30, 5).requires_grad_(False)
    module = nn.Sequential(embedding, nn.Flatten(), nn.Linear(30, 8), nn.ReLU(), nn.Linear(8, 4))
    x = torch.randint(30, (16, 6))
    network = convert(module, x)
    rule_class(rule)(network, x)(x, CLASSES)
    assert all(p.grad.any() for p in module.parameters() if p.requires_grad)
    for other in ("pepita", "forward_forward"):
        with pytest.raises(EdgepepError, match="int64"):
            rule_class(other)(network, x)


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.BatchNorm1d(20), nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 4)),
        nn.Sequential(nn.Linear(20, 8).requires_grad_(False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4)),
    ],
)
def test_normalisations_learn_wherever_they_stand(module):
    twin = copy.deepcopy(module)
    nn.functional.cross_entropy(twin(VECTORS), CLASSES).backward()
    network = convert(module, VECTORS)
    rule = rule_class("feedback_alignment")(network, VECTORS)
    for i, feedback in rule.feedback.items():
        feedback.codes.copy_(network.chain[int(i)].synapses.weight)
    rule(VECTORS, CLASSES)
    for p, q in zip(module.parameters(), twin.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None)
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, atol=1e-6, rtol=1e-4)


class InPlace(nn.Module):
    def __init__(self, in_place):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c, self.tanh = (
            nn.Linear(20, 8), nn.Linear(8, 8), nn.Linear(8, 4), torch.tanh_ if in_place else torch.tanh,
        )  # fmt: skip

    def forward(self, x):
        return self.c(self.tanh(self.b(self.tanh(self.a(x)))))


@pytest.mark.parametrize("rule", ["pepita", "feedback_alignment", "dfa", "drtp"])
def test_what_is_done_in_place_is_not_done_to_what_is_kept(rule):
    grads = []
    for in_place in (False, True):
        network = convert(InPlace(in_place), VECTORS)
        rule_class(rule)(network, VECTORS)(VECTORS, CLASSES)
        grads.append([p.grad for p in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_an_output_with_an_activation_learns_through_it():
    for name in ("frozen_hidden", "pepita", "last_layer"):
        module = nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 4), nn.Tanh())
        twin = copy.deepcopy(module)
        nn.functional.cross_entropy(twin(VECTORS), CLASSES).backward()
        network = convert(module, VECTORS)
        rule_class(name)(network, VECTORS)(VECTORS, CLASSES)
        got, want = module[2].weight.grad.flatten(), twin[2].weight.grad.flatten()
        assert torch.cosine_similarity(got, want, dim=0) > 0.999  # pepita's presynaptic factor is the second pass's


def test_a_silent_layer_is_not_turned_by_spela():
    import snntorch as snn

    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(20, 8), snn.Leaky(0.9, init_hidden=True), nn.Linear(8, 4))
    network = convert(module, VECTORS, steps=5)
    rule_class("spela")(network, VECTORS)(0.01 * VECTORS, CLASSES)
    assert not module[0].weight.grad.any()


def test_a_network_starts_in_the_modules_mode():
    module = _mlp(nn.Dropout(0.5)).eval()
    network = convert(module, VECTORS)
    assert not network.training
    assert torch.equal(network(VECTORS), module(VECTORS))


class Slices(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(10, 8), nn.Linear(10, 8), nn.Linear(8, 4)

    def forward(self, x, mask=None):
        return self.c(torch.relu(self.a(x[:, :10]) + self.b(x[:, 10:])))


def test_slices_of_the_input_and_arguments_left_at_their_default():
    module = Slices()
    network = convert(module, VECTORS)
    rule_class("backprop")(network, VECTORS)(VECTORS, CLASSES)
    assert all(p.grad.any() for p in module.parameters())


class DropsByFunction(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(20, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.b(nn.functional.dropout(self.a(x), 0.5, training=self.training))


class TrainsOtherwise(DropsByFunction):
    def forward(self, x):
        h = self.a(x)
        return self.b(h.relu() if self.training else h)


class Broadcasts(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(20, 8), nn.Linear(20, 1), nn.Linear(8, 4)

    def forward(self, x):
        return self.c(torch.relu(self.a(x) + self.b(x)))


class SizeOfAnother(DropsByFunction):
    def forward(self, x):
        return self.b(self.a(x).view(x.size(0), 8))


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(20, 8)), nn.Linear(8, 4)), "parametrisation"),
        (DropsByFunction(), r"dropout.*use nn\.Dropout"),
        (TrainsOtherwise(), "in training than in evaluation"),
        (Broadcasts(), "broadcasts"),
        (SizeOfAnother(), "use its own size"),
        (nn.Sequential(nn.Linear(20, 8), nn.RReLU(), nn.Linear(8, 4)), "LeakyReLU"),
    ],
)
def test_what_would_go_wrong_silently_is_refused(module, said):
    with pytest.raises(ConversionError, match=said):
        convert(module, VECTORS)
    assert module.training


def test_steps_without_spikes_and_quantisers_without_scale_are_refused():
    from brevitas.nn import QuantReLU

    with pytest.raises(ConversionError, match="nothing in the module spikes"):
        convert(_mlp(nn.ReLU()), VECTORS, steps=5)
    with pytest.raises(ConversionError, match="no scale yet"):
        convert(_mlp(QuantReLU()), VECTORS)


def test_a_sum_of_rounded_activities_is_rounded_each():
    from brevitas.nn import QuantReLU

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(20, 8), nn.Linear(8, 8), nn.Linear(8, 4)
            self.r1, self.r2 = QuantReLU(bit_width=4), QuantReLU(bit_width=4)

        def forward(self, x):
            h = self.r1(self.a(x))
            return self.c(self.r2(self.b(h)) + h)

    torch.manual_seed(0)
    module = Residual()
    for _ in range(3):
        module(VECTORS)
    network = convert(module.eval(), VECTORS)
    assert torch.equal(network(VECTORS), module(VECTORS))


def test_tied_weights_are_refused_by_the_updater_and_right_without_it():
    module = _mlp(nn.ReLU())
    module.insert(3, nn.Linear(8, 8))
    module[3].weight = module[2].weight
    network = convert(module, VECTORS)
    with pytest.raises(EdgepepError, match="share a parameter"):
        InPlaceSGD(network, 0.1)
    rule = rule_class("backprop")(network, VECTORS)
    rule(VECTORS, CLASSES)
    assert module[2].weight.grad.any()


def test_a_layer_unfrozen_later_is_told_to_the_optimizer():
    module = _mlp(nn.ReLU())
    module[0].requires_grad_(False)
    network = convert(module, VECTORS)
    InPlaceSGD(network, 0.1)
    rule = rule_class("dfa")(network, VECTORS)
    module[2].requires_grad_(True)
    module[0].requires_grad_(True)
    with pytest.raises(EdgepepError, match="frozen when the optimizer was made"):
        rule_class("backprop")(network, VECTORS)(VECTORS, CLASSES)
    assert rule is not None


def test_weight_mirror_where_a_kernel_sees_only_padding():
    module = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
    module.extend([nn.ReLU(), nn.Flatten(), nn.Linear(4, 4)])
    x = torch.randn(4, 3, 2, 2)
    rule = rule_class("weight_mirror")(convert(module, x), x)
    rule(x, torch.arange(4))
    assert all(m.isfinite().all() for m in rule.feedback_matrices().values())
