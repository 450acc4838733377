"""Noise on updates: of the size asked for, another at every update, the same in a run that goes on."""

import copy

import pytest
import torch

from edgepep import EdgepepError, InPlaceSGD, datasets, load, noise
from edgepep.loop import Loop
from edgepep.training import prepare
from edgepep.update_noise import UpdateNoise

DIGITS = datasets.load("digits", True)


def trained(epochs=1, share=None, rule="pepita", **changes):
    recipe = load("digits-fc").but(training={"update_noise": share, **changes})
    made, optimizer, scheduler = prepare(recipe, rule, 0, DIGITS, "cpu")
    loop = Loop(made, DIGITS, optimizer, epochs=epochs, batch_size=64, scheduler=scheduler)
    return loop, list(loop.run())


def test_normal_numbers():
    drawn = noise.normal((401, 999), noise.key(1, 2)).double()
    assert abs(drawn.mean()) < 0.01
    assert abs(drawn.std() - 1) < 0.01
    assert abs(drawn.pow(4).mean() - 3) < 0.1
    assert 4 < drawn.abs().max() < 6
    assert drawn.shape == (401, 999)
    assert not torch.equal(drawn, noise.normal((401, 999), noise.key(1, 3)))


def test_it_is_a_share_of_the_update():
    state, given = {}, torch.randn(200, 300) * 0.02
    added = UpdateNoise(0.5, 0).added(given, 0, state) - given
    assert abs(float(added.std()) / (0.5 * 0.02) - 1) < 0.02
    again = UpdateNoise(0.5, 0).added(given, 0, state) - given
    assert abs(float((added * again).mean())) < 0.02 * 0.01**2 * 5, "drawn anew at every update"
    assert int(state["step"]) == 2
    assert UpdateNoise(0.0, 0).added(given, 0, {}) is given


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("quantized", [{}, {"weight_bits": 8, "weights": "integer"}])
def test_a_run_that_goes_on_draws_the_same(momentum, quantized):
    def fresh():
        recipe = load("digits-fc").but(training={"update_noise": 0.3, "momentum": momentum})
        recipe = recipe.but(quantized=quantized) if quantized else recipe
        made, optimizer, scheduler = prepare(recipe, "pepita", 0, DIGITS, "cpu")
        return Loop(made, DIGITS, optimizer, epochs=2, batch_size=64, scheduler=scheduler)

    whole, half, rest = fresh(), fresh(), fresh()
    list(whole.run())
    next(half.run())
    rest.load_state_dict(copy.deepcopy(half.state_dict()))
    list(rest.run())
    for name, ours in whole.rule.state_dict().items():
        assert torch.equal(ours, rest.rule.state_dict()[name]), name


@pytest.mark.parametrize("rule", ["pepita", "backprop", "weight_mirror"])
def test_rules_learn_under_it_though_less(rule):
    _, plain = trained(4, rule=rule)
    loop, noisy = trained(4, 1.0, rule)
    assert not loop.optimizer.follow
    assert noisy[-1].loss != plain[-1].loss
    assert noisy[-1].loss < noisy[0].loss
    assert noisy[-1].train_accuracy > 60


def test_what_cannot_be_is_refused():
    network = load("digits-fc").build(0)
    for share in (-0.1, float("nan"), float("inf")):
        with pytest.raises(EdgepepError, match=r"update noise is .*; it must be at least 0"):
            InPlaceSGD(network, 0.1, noise=share)
    with pytest.raises(EdgepepError, match="update_noise"):
        load("digits-fc").but(training={"update_noise": -1.0})
    optimizer = InPlaceSGD(network, 0.1, noise=0.1)
    rule = load("digits-fc").make_rule(network, "pepita", 0)
    with pytest.raises(EdgepepError, match="cannot be deferred"), optimizer.deferring(rule):
        pass
