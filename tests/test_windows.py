"""Spiking networks that go through time in windows: the same spikes and updates, in memory that does not grow."""

import pytest
import torch
from torch import nn

from edgepep import EdgepepError, InPlaceSGD, Layer, Network, rules
from edgepep.build import rule_class
from edgepep.neurons import Dropout, Latency, Leaky, Poisson, Rate, Repeat, RLeaky, Synaptic, Trace
from edgepep.plugins import in_package

T, BATCH = 11, 6
RULES = in_package(rules)
NEED_CURRENTS = {"dfa", "drtp", "f3", "feedback_alignment", "usf", "brsf", "frsf", "kolen_pollack", "weight_mirror"}
NEED_CURRENTS |= {
    "information_alignment",
    "symmetric_alignment",
    "activation_alignment",
    "last_layer",
    "spela",
    "local_heads",
    "forward_forward",
}


def spiking(window="auto", code=Repeat, decode=Rate, first=Leaky, dtype=torch.float64):
    torch.manual_seed(0)
    layers = [
        Layer(nn.Linear(20, 16, bias=False), nn.Sequential(first(), Dropout(0.2, over_time=True)), None, decode()),
        Layer(nn.Linear(16, 12), Synaptic(0.5, 0.8), None, decode()),
        Layer(nn.Linear(12, 4, bias=False), None, decode()),
    ]
    with torch.no_grad():
        for layer in layers:
            layer.synapses.weight.mul_(3)
    return Network(layers, code(T), window=window).to(dtype)


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.rand(BATCH, 20, dtype=torch.float64), torch.randint(4, (BATCH,))


def trained(rule, batch, steps=3, **options):
    network = spiking(**options)
    made = rule_class(rule)(network, batch[0])
    InPlaceSGD(network, 0.1, 0.9)
    losses = [made(*batch).loss for _ in range(steps)]
    return network, losses


@pytest.mark.parametrize("window", [1, 4, 11, 100, "auto"])
@pytest.mark.parametrize("code", [Repeat, Poisson, Latency])
@pytest.mark.parametrize("decode", [Rate, Trace])
@pytest.mark.parametrize("rule", ["pepita", "mempepita", "frozen_hidden", "backprop"])
def test_windows_change_nothing(rule, decode, code, window, batch):
    whole, losses = trained(rule, batch, code=code, decode=decode, window=None)
    split, others = trained(rule, batch, code=code, decode=decode, window=window)
    torch.testing.assert_close(losses, others, rtol=1e-9, atol=1e-9)
    for one, other in zip(whole.parameters(), split.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        torch.testing.assert_close(whole.eval()(batch[0]), split.eval()(batch[0]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("variant", ["hebbian", "time_local"])
def test_variants_and_recurrence_too(variant, batch):
    ends = []
    for window in (None, 3):
        network = spiking(window, Poisson, first=lambda: RLeaky(0.8, nn.Linear(16, 16, bias=False)))
        before = network.chain[0].neurons[0].recurrent.weight.detach().clone()
        made = rule_class("pepita")(network, batch[0], variant=variant)
        InPlaceSGD(network, 0.1, 0.9)
        made(*batch)
        assert not torch.equal(network.chain[0].neurons[0].recurrent.weight, before)
        ends.append([p.detach() for p in network.parameters()])
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_runs_in_windows_or_says_why_not(rule, batch):
    network = spiking(window=4)
    made = rule_class(rule)(network, batch[0])
    before = [p.detach().clone() for p in network.parameters()]
    InPlaceSGD(network, 0.1)
    if rule in NEED_CURRENTS:
        with pytest.raises(EdgepepError, match="set its window to None"):
            made(*batch)
        assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    else:
        assert made(*batch).loss.isfinite()


def test_memory_does_not_grow_with_time(batch):
    from edgepep.profiling.measure import peak_bytes

    peaks = {}
    for steps in (25, 200):
        torch.manual_seed(0)
        layers = [Layer(nn.Linear(20, 256), Leaky(), None, Rate()), Layer(nn.Linear(256, 4), None, Rate())]
        network = Network(layers, Repeat(steps), window=1).double()
        made = rule_class("pepita")(network, batch[0])
        InPlaceSGD(network, 0.1)
        peaks[steps] = peak_bytes(lambda made=made: made(*batch))
    assert peaks[200] == pytest.approx(peaks[25], rel=0.02)


def test_poisson_spikes_are_the_same_in_every_window_and_pass_until_renewed():
    code, x = Poisson(20, seed=3), torch.rand(4, 50)
    first = code(x)
    assert set(first.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(torch.cat([code.window(x, 0, 7), code.window(x, 7, 20)]), first)
    code.renew()
    assert not torch.equal(code(x), first)
    rate = Poisson(4000)(torch.full((1, 10), 0.3)).mean()
    assert abs(float(rate) - 0.3) < 0.01


def test_latency_spikes_once_and_the_larger_the_earlier():
    spikes = Latency(11)(torch.tensor([[1.0, 0.5, 0.1, 0.0]]))
    assert spikes.sum(0).tolist() == [[1, 1, 1, 0]]
    assert spikes[:, 0].argmax(0).tolist()[:3] == [0, 5, 9]


def test_a_trace_weighs_the_latest_most():
    x = torch.zeros(5, 2, 1)
    x[4, 0], x[0, 1] = 1, 1
    read = Trace(0.5)(x)
    assert read[0] == 16 * read[1]
    assert torch.allclose(Trace(0.5)(torch.ones(5, 2, 1)), torch.ones(2, 1))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: spiking(window=0), "window is 0"),
        (lambda: Network([Layer(nn.Linear(3, 2))], window=2), "no time axis"),
        (lambda: Poisson(5)(torch.tensor([[1.5]])), "values from 0 to 1, not 1.5"),
        (lambda: Latency(5)(torch.tensor([[float("nan")]])), "values from 0 to 1"),
        (lambda: Poisson(0), "steps is 0"),
        (lambda: Trace(1.0), "decay is 1.0"),
    ],
)
def test_bad_values_are_named(make, said):
    with pytest.raises(EdgepepError, match=said):
        make()


def by_hand(network, x, target, size):
    """Gradients of the sum over windows of their own loss, the state detached in between."""
    first, second, last = network.chain
    states, total = [None, None], 0.0
    for start in range(0, T, size):
        steps = min(size, T - start)
        current = first.synapses(x).expand(steps, BATCH, 16)
        spikes, states[0] = first.neurons[0].scan(current, states[0])
        spikes, states[1] = second.neurons.scan(second.synapses(first.neurons[1](spikes)), states[1])
        loss = nn.functional.cross_entropy(last.synapses(spikes.mean(0)), target) * steps / T
        total = total + loss
        states = [tuple(part.detach() for part in state) for state in states]
    return torch.autograd.grad(total, list(network.parameters()))


@pytest.mark.parametrize("size", [1, 4, T])
def test_truncated_backpropagation_through_time(size, batch):
    network = spiking()
    made = rule_class("backprop")(network, batch[0], truncate=size)
    made(*batch)
    for want, parameter in zip(by_hand(network, *batch, size), network.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, want)
    plain, held = spiking(), spiking()
    rule_class("backprop")(held, batch[0], truncate=size)(*batch)
    rule_class("backprop")(plain, batch[0])(*batch)
    same = all(torch.allclose(a.grad, b.grad) for a, b in zip(plain.parameters(), held.parameters(), strict=True))
    assert same == (size == T)
    updated = spiking()
    InPlaceSGD(updated, 0.1)
    rule_class("backprop")(updated, batch[0], truncate=size)(*batch)
    for one, other in zip(updated.parameters(), held.parameters(), strict=True):
        torch.testing.assert_close(one, other - 0.1 * other.grad)


def test_truncation_needs_time():
    with pytest.raises(EdgepepError, match="no time axis"):
        rule_class("backprop")(Network([Layer(nn.Linear(3, 2))]), torch.zeros(2, 3), truncate=5)


class Adaptive(nn.Module):
    """Neurons over time that edgepep does not know: they begin anew wherever they are called."""

    def forward(self, current):
        return current.cumsum(0)


@pytest.mark.parametrize(
    ("neurons", "decode", "reads", "said"),
    [
        (Adaptive(), Rate(), Rate(), "Adaptive would begin anew"),
        (nn.Sequential(Leaky(), Dropout(0.1)), Rate(), Rate(), "Dropout would begin anew"),
        (Leaky(), Trace(), Rate(), "by its own decoder"),
        (Leaky(), Trace(0.9), Trace(0.5), "by its own decoder"),
    ],
)
def test_what_windows_would_change_runs_over_all_of_time(neurons, decode, reads, said, batch):
    x = batch[0].float()
    layers = [Layer(nn.Linear(20, 16), neurons, None, decode), Layer(nn.Linear(16, 4), None, reads)]
    network = Network(layers, Repeat(T)).eval()
    with torch.no_grad():
        got = network(x)
        network.window = None
        assert torch.equal(got, network(x))
    with pytest.raises(EdgepepError, match=said):
        network.window = 3
