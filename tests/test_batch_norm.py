"""Batch normalisation between synapses and neurons: how it learns, and how it is folded away."""

import pytest
import torch
from torch import nn

from edgepep import InPlaceSGD, Layer, Network, convert, export, load
from edgepep.c99.host import compiler
from edgepep.derivatives import pull_back
from edgepep.folding import folded
from edgepep.neurons import Leaky
from edgepep.normalisation import Norm
from edgepep.phases import FORWARD, phase
from edgepep.time_axis import EachStep

CONV = {"synapses": "conv", "features": 4, "kernel": 3, "norm": "batch"}
LAYERS = [
    CONV | {"stride": 2, "padding": "same"},
    {"prepare": ["flatten"], "synapses": "linear", "features": 12, "norm": "batch", "neurons": "tanh", "dropout": 0.1},
    {"synapses": "linear"},
]


def made(rule="backprop", **changes):
    """A rule on a small network, its batch normalisations off their first values."""
    recipe = load("digits-fc").but(network={"layers": LAYERS}, **changes)
    network = recipe.build(0)
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            for values in (module.weight.data, module.running_var):
                values.uniform_(0.5, 2.0)
            for values in (module.bias.data, module.running_mean):
                values.normal_()
    return recipe.make_rule(network, rule, 0)


def norms(network):
    return [m for m in network.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]


@pytest.mark.parametrize("rule", ["backprop", "feedback_alignment"])
def test_scale_and_shift_learn_as_under_autograd(rule):
    learner = made(rule)
    network = learner.network
    if rule == "feedback_alignment":
        learner.matrix = lambda i: network.chain[i].synapses.weight.detach()  # in place of the feedback: backprop
    network.layers[1].neurons[2].p = 0.0
    twin = nn.Sequential(*(part for layer in network.chain for part in (layer.prepare, layer.synapses, layer.neurons)))
    x, target = torch.rand(8, 1, 8, 8), torch.arange(8)
    learner(x, target)
    got = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    nn.functional.cross_entropy(twin(x), target).backward()
    for mine, p in zip(got, network.parameters(), strict=True):
        torch.testing.assert_close(mine, p.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("rule", ["pepita", "feedback_alignment", "dfa"])
def test_running_statistics_see_each_batch_once(rule):
    learner = made(rule)
    norm = norms(learner.network)[0]
    x, before = torch.rand(8, 1, 8, 8), norm.running_mean.clone()
    current = learner.network.chain[0](x).current.detach()  # outside a step as in torch: it counts too
    after = 0.9 * before + 0.1 * current.mean((0, 2, 3))
    learner(x, torch.arange(8))
    torch.testing.assert_close(norm.running_mean, 0.9 * after + 0.1 * current.mean((0, 2, 3)))
    assert norm.num_batches_tracked == 2


def test_scale_and_shift_rest_where_no_error_goes_back():
    learner = made("pepita")
    optimizer = InPlaceSGD(learner.network, lr=0.1)
    before = [norm.weight.detach().clone() for norm in norms(learner.network)]
    weight = learner.network.chain[0].synapses.weight.detach().clone()
    learner(torch.rand(8, 1, 8, 8), torch.arange(8))
    optimizer.step()
    assert not torch.equal(learner.network.chain[0].synapses.weight, weight)
    for old, norm in zip(before, norms(learner.network), strict=True):
        assert torch.equal(old, norm.weight)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("statistics", ["batch", "running"])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    ("kind", "shape"), [(nn.BatchNorm1d, (6, 3)), (nn.BatchNorm1d, (6, 3, 5)), (nn.BatchNorm2d, (6, 3, 5, 4))]
)
def test_its_share_of_a_backward_pass_is_autograds(kind, shape, affine, statistics, training):
    norm = kind(3, affine=affine).double()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2.0)
    if affine:
        nn.init.uniform_(norm.weight, 0.5, 2.0)
    own = Norm(norm, statistics).train(training)
    x, delta = torch.randn(shape, dtype=torch.double, requires_grad=True), torch.randn(shape, dtype=torch.double)
    parameters = list(norm.parameters())
    want = torch.autograd.grad((own(x) * delta).sum(), [x, *parameters])
    torch.testing.assert_close(pull_back(own, x.detach(), delta), want[0])
    for parameter, gradient in zip(parameters, want[1:], strict=True):
        torch.testing.assert_close(own.gradients[parameter], gradient)


def test_without_running_statistics_those_of_the_batch_are_used():
    own = Norm(nn.BatchNorm1d(3, track_running_stats=False)).eval()
    x, delta = torch.randn(6, 3, requires_grad=True), torch.randn(6, 3)
    want = torch.autograd.grad((own(x) * delta).sum(), x)[0]
    torch.testing.assert_close(pull_back(own, x.detach(), delta), want, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_what_a_graph_is_given_is_what_torch_computes(monkeypatch, momentum):
    norm, twin = nn.BatchNorm2d(3, momentum=momentum), nn.BatchNorm2d(3, momentum=momentum)
    own, x = Norm(norm), torch.randn(6, 3, 5, 4)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    with torch.no_grad(), phase(FORWARD):
        for batch in (x, 2 * x + 1):
            own.renew()
            torch.testing.assert_close(own(batch), twin(batch), atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(own(batch), own(batch))  # later passes of a step do not count
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(norm.state_dict()[name], value)
    with torch.no_grad(), phase(FORWARD):  # torch refuses one value a channel; a graph cannot, and learns nothing of it
        own.renew()
        own(x[:1, :, :1, :1])
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(norm.state_dict()[name], value)


def test_spiking_layers_normalise_over_all_steps():
    recipe = load("digits-fc").but(network={"layers": [LAYERS[1] | {"dropout": 0.0}, {"synapses": "linear"}]})
    network = recipe.spiking(steps=6, code="poisson").build(0)
    norm, leaky = network.chain[0].neurons
    assert isinstance(norm, EachStep)
    assert isinstance(leaky, Leaky)
    current = network.chain[0](network.encode(torch.rand(8, 1, 8, 8))).current
    torch.testing.assert_close(norm.module.norm.running_mean, 0.1 * current.mean((0, 1)).detach())
    learner = recipe.spiking(steps=6).make_rule(network, "pepita", 0)
    learner(torch.rand(8, 1, 8, 8), torch.arange(8))
    assert network.chain[0].synapses.weight.grad.abs().max() > 0


def test_the_recipe_has_the_references_values():
    network = load("resnet8-batchnorm").build(0)
    counted = [v for name, v in network.state_dict().items() if not name.endswith("num_batches_tracked")]
    assert sum(v.numel() for v in counted) == 78_666  # as Keras counts MLPerf Tiny's


def test_folded_the_network_answers_as_before():
    network, x = made().network.eval(), torch.rand(16, 1, 8, 8)
    fewer = folded(network, x)
    assert not norms(fewer)
    assert norms(network)
    torch.testing.assert_close(fewer(x), network(x), atol=1e-5, rtol=1e-4)
    plain = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, affine=False), nn.Linear(6, 3), nn.BatchNorm1d(3)).eval()
    given = x[:5, 0, 0, :4]
    torch.testing.assert_close(folded(convert(plain, given), given)(given), plain(given))


def test_what_cannot_be_folded_stays_as_it_is():
    x, norm, shared = torch.randn(5, 6, 4), nn.BatchNorm1d(6, affine=False), nn.Linear(4, 4)
    norm.running_mean.normal_()
    along_another_axis = convert(nn.Sequential(nn.Linear(4, 6), norm, nn.Flatten(), nn.Linear(36, 3)).eval(), x)
    norms_of_four = [nn.BatchNorm1d(4), nn.BatchNorm1d(4)]
    for own in norms_of_four:
        own.running_var.uniform_(0.2, 2)
    by_two = Network([*(Layer(shared, Norm(own)) for own in norms_of_four), Layer(nn.Linear(4, 3))]).eval()
    for network, given in ((along_another_axis, x), (by_two, x[:, 0])):
        torch.testing.assert_close(folded(network, given)(given), network(given))
        assert norms(folded(network, given))


def test_quantised_weights_keep_their_codes():
    recipe = load("digits-fc").but(network={"layers": [LAYERS[1], LAYERS[2]]}).quantized(weight_bits=4)
    assert norms(folded(recipe.build(0), torch.rand(2, 1, 8, 8)))


@pytest.mark.skipif(compiler() is None, reason="needs a C compiler")
def test_in_c_it_goes_into_the_weights(tmp_path):
    network, x = made().network.eval(), torch.rand(16, 1, 8, 8)
    network.layers[1].neurons[1] = nn.ReLU()
    checked = export.save(network, tmp_path / "c", "c", x)
    assert checked.agreement == checked.samples == 16
    with pytest.raises(export.ExportError, match="where nothing learns"):
        export.save(network, tmp_path / "learns", "c", x, rule=load("digits-fc").make_rule(network, "pepita", 0))
