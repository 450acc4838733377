"""Costs against closed forms and independent counters."""

import pytest
import torch
from torch import nn

from edgepep import EdgepepError, InPlaceSGD, Layer, Network, convert, load, profile
from edgepep.profiling.observe import FEEDBACK, KEPT, PARAMETERS, observe
from edgepep.profiling.trace import Watch
from edgepep.rules.mempepita import Mempepita
from edgepep.rules.pepita import Pepita


def test_forward_and_update_are_the_closed_forms():
    costs = profile(load("mnist-fc"), "pepita")
    weights = 784 * 1024 + 1024 * 10
    assert costs.macs["forward pass"] == 64 * weights
    assert costs.macs["projection"] == 64 * 10 * 784
    follow = 64 * 10 * 784 + 64 * 10 * 1024  # the response to the feedback, taken along with the update
    assert costs.macs["update"] == 64 * weights + follow
    assert costs.macs["second forward pass"] == 64 * (10 * 1024 + 1024 * 10)
    assert costs.memory[FEEDBACK] == 4 * 10 * 784
    assert costs.memory[PARAMETERS] == pytest.approx(4 * weights, abs=64)


def test_a_recipe_by_its_name_and_a_network():
    by_recipe, by_name = (profile(one, "pepita", batch=20) for one in (load("digits-fc"), "digits-fc"))
    assert (by_name.macs, by_name.memory, by_name.batch) == (by_recipe.macs, by_recipe.memory, 20)
    module = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32, bias=False), nn.ReLU(inplace=True), nn.Linear(32, 10, bias=False)
    )
    network, x = convert(module, torch.rand(3, 1, 8, 8)), torch.rand(3, 1, 8, 8)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    optimizer = InPlaceSGD(network, 0.1)
    for in_place in (True, False):
        found = profile(network, "pepita", batch=20, in_place=in_place, example=x)
        again = profile("digits-fc", "pepita", batch=20, in_place=in_place)
        assert (found.macs, found.total_memory, found.batch) == (again.macs, again.total_memory, 20)
    assert all(value.equal(before[key]) for key, value in network.state_dict().items())
    assert all(layer.updater is optimizer for layer in network.chain)
    spiking = load("digits-fc").spiking(steps=4).build()
    assert profile(spiking, "dfa", example=x).macs["forward pass"] == 64 * (64 * 32 + 32 * 10)  # a constant current


@pytest.mark.parametrize(
    ("model", "given", "said"),
    [
        (nn.Linear(4, 2), {}, r"not a Linear; of a module, edgepep\.convert\(module, example\) makes a Network"),
        (Network([Layer(nn.Linear(4, 2))]), {}, r"profile\(network, rule, example=x\)"),
        ("digits-fc", {"example": torch.rand(2, 64)}, "digits-fc is a recipe"),
        ("digits-fcc", {}, "did you mean 'digits-fc'"),
    ],
)
def test_what_cannot_be_profiled(model, given, said):
    with pytest.raises(EdgepepError, match=said):
        profile(model, "pepita", **given)


def test_backprop_has_no_gradient_of_the_input():
    costs = profile(load("mnist-fc"), "backprop")
    assert costs.macs["backward"] == 64 * (2 * 1024 * 10 + 784 * 1024)


@pytest.mark.parametrize("groups", [1, 4])
def test_grouped_convolutions_count_their_own_channels(groups):
    conv = nn.Conv2d(8, 8, 3, padding=1, groups=groups)
    x = torch.randn(2, 8, 5, 5, requires_grad=True)
    watch = Watch({})
    with watch:
        conv(x).sum().backward()
    forward = 2 * 25 * 8 * (8 // groups) * 9
    assert sum(watch.trace.macs_by("phase").values()) == 3 * forward


def test_forward_agrees_with_fvcore():
    from fvcore.nn import FlopCountAnalysis

    network = load("cifar10-conv").build()
    counted = FlopCountAnalysis(network, torch.rand(1, 3, 32, 32)).unsupported_ops_warnings(False)
    counted.uncalled_modules_warnings(False)
    by_operator = counted.by_operator()
    ours = profile(load("cifar10-conv"), "pepita", batch=1).macs["forward pass"]
    assert ours == by_operator["conv"] + by_operator["linear"]


@pytest.mark.parametrize("kind", [Pepita, Mempepita])
def test_mempepita_keeps_nothing_that_grows_with_depth(kind):
    kept = []
    for depth in (2, 6):
        layers = [Layer(nn.Linear(32, 32, bias=False), nn.ReLU(inplace=True)) for _ in range(depth)]
        network = Network([*layers, Layer(nn.Linear(32, 4, bias=False))])
        x, target = torch.randn(128, 32), torch.randint(4, (128,))
        costs = observe(kind(network, x), x, target, InPlaceSGD(network, 0.01, 0.9))
        kept.append(costs.total_memory - costs.memory[PARAMETERS] - costs.memory["optimizer state"])
        assert costs.memory[KEPT] < 128 * 32 * 4 if kind is Mempepita else True
    grown = kept[1] - kept[0]
    assert grown < 2000 if kind is Mempepita else grown >= 4 * 128 * 32 * 4


def test_gradients_are_held_only_when_asked():
    held, in_place = (profile(load("mnist-fc"), "pepita", batch=1, in_place=way) for way in (False, True))
    assert held.memory["gradients"] == 4 * (784 * 1024 + 1024 * 10)
    assert in_place.memory["gradients"] == 0
    assert held.macs["forward pass"] == in_place.macs["forward pass"]
