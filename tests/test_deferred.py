"""Updates of one sample each that wait as vectors: the weights are those of the plain steps."""

import copy

import pytest
import torch
from torch import nn

from edgepep import EdgepepError, InPlaceSGD, Layer, Network, load
from edgepep.deferred import BLOCK
from edgepep.rules.backprop import Backprop
from edgepep.rules.dfa import Dfa
from edgepep.rules.mempepita import Mempepita
from edgepep.rules.pepita import Pepita

RATE, STEPS = 0.001, 300  # more than wait at a time with a momentum of 0.9


def make(bias=False):
    torch.manual_seed(0)
    sizes = [(300, 256), (256, 260), (260, 10)]
    layers = [Layer(nn.Linear(i, o, bias=bias), nn.ReLU()) for i, o in sizes[:-1]]
    return Network([*layers, Layer(nn.Linear(*sizes[-1], bias=bias))]).double()


def samples(n=STEPS, batch=1):
    torch.manual_seed(1)
    return [(torch.rand(batch, 300).double(), torch.randint(10, (batch,))) for _ in range(n)]


def trained(kind, momentum, deferred, before=5, data=None, bias=False, halve=False, follow=True):
    network = make(bias)
    rule = kind(network, torch.rand(1, 300).double())
    optimizer = InPlaceSGD(network, RATE, momentum, follow=follow)
    data = data or samples()
    for x, y in data[:before]:
        rule(x, y)
    if not deferred:
        for i, (x, y) in enumerate(data[before:]):
            optimizer.param_groups[0]["lr"] *= 0.5 if halve and i == 100 else 1
            rule(x, y)
        return network, optimizer
    with optimizer.deferring(rule):
        for i, (x, y) in enumerate(data[before:]):
            optimizer.param_groups[0]["lr"] *= 0.5 if halve and i == 100 else 1
            rule(x, y)
    return network, optimizer


def apart(one, other):
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float(((a - b).abs().max() / b.abs().max()).detach()) for a, b in pairs)


@pytest.mark.parametrize("kind", [Pepita, Mempepita, Dfa])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_weights_are_those_of_plain_steps(kind, momentum):
    plain, by = trained(kind, momentum, False)
    waited, late = trained(kind, momentum, True)
    moved = apart(plain, make())
    assert moved > 0.05
    assert apart(waited, plain) < 1e-6
    for a, b in zip(plain.parameters(), waited.parameters(), strict=True):
        if momentum:
            velocity = by.state[a]["momentum_buffer"]
            off = (velocity - late.state[b]["momentum_buffer"]).abs().max()
            assert off < 1e-4 * velocity.abs().max()


@pytest.mark.parametrize("given", [{"bias": True}, {"follow": False}, {"before": 0}, {"halve": True}])
def test_in_every_setting(given):
    assert apart(trained(Pepita, 0.9, True, **given)[0], trained(Pepita, 0.9, False, **given)[0]) < 1e-6


def test_samples_by_one_and_by_three():
    data = [pair for n in range(60) for pair in (samples(1, 3)[0], *samples(4))]
    data = [(x.roll(i, 1), y) for i, (x, y) in enumerate(data)]
    one, other = (trained(Pepita, 0.9, d, data=data)[0] for d in (True, False))
    assert apart(one, other) < 1e-6


def test_the_network_answers_as_it_should_meanwhile_and_goes_on_afterwards():
    plain, waited = make(), make()
    rules = [Pepita(n, torch.rand(1, 300).double()) for n in (plain, waited)]
    one, other = (InPlaceSGD(n, RATE, 0.9) for n in (plain, waited))
    x = samples(1, 7)[0][0]
    for _ in range(3):
        with other.deferring(rules[1]):
            for given in samples(BLOCK + 5):
                for rule in rules:
                    rule(*given)
            assert (waited.layers[0].synapses.weight - plain.layers[0].synapses.weight).abs().max() > 1e-4
            torch.testing.assert_close(waited(x), plain(x), rtol=1e-6, atol=1e-9)
            assert "momentum_buffer" not in other.state[waited.layers[0].synapses.weight]
        assert apart(waited, plain) < 1e-6
        for given in samples(3, 4):
            for rule in rules:
                rule(*given)
        assert apart(waited, plain) < 1e-6
    assert one.state_dict()["param_groups"] == other.state_dict()["param_groups"]
    copy.deepcopy(waited)


def test_what_stops_leaves_the_weights_whole():
    network = make()
    rule = Pepita(network, torch.rand(1, 300).double())
    optimizer = InPlaceSGD(network, RATE, 0.9)

    def stopped():
        with optimizer.deferring(rule):
            for x, y in samples(40):
                rule(x, y)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    plain = trained(Pepita, 0.9, False, before=0, data=samples(40))[0]
    assert apart(network, plain) < 1e-6
    assert all(layer.deferred is None for layer in network.chain)


def test_rules_that_read_weights_are_refused():
    network = make()
    example = torch.rand(1, 300).double()
    for rule in (Backprop(network, example), Pepita(network, example, feedback="product")):
        optimizer = InPlaceSGD(network, 0.1)
        with pytest.raises(EdgepepError, match=r"reads the forward weights"), optimizer.deferring(rule):
            pass
    with pytest.raises(EdgepepError, match="another optimizer"), optimizer.deferring(Pepita(make(), example)):
        pass


def test_other_synapses_learn_at_once():
    recipe = load("digits-fc").quantized(bits=8)
    network = recipe.build(0)
    rule = recipe.make_rule(network, "pepita")
    with InPlaceSGD(network, 0.1, 0.9).deferring(rule):
        assert all(layer.deferred is None for layer in network.chain)
