"""Every spiking population against snnTorch, spike for spike and gradient for gradient."""

import itertools

import pytest
import snntorch as snn
import snntorch.surrogate
import torch
from torch import nn

from edgepep import EdgepepError
from edgepep.derivatives import pull_back
from edgepep.neurons import Alpha, Lapicque, Leaky, RLeaky, Spiking, Synaptic

T, BATCH, SIZE = 25, 8, 32


def double_spikes(x):
    return snn.surrogate.atan()(x).to(x.dtype)  # snnTorch's own are 32-bit floats whatever the potential is


def exact(value):
    return torch.as_tensor(value, dtype=torch.float64)


def over_time(cell, current):
    """snnTorch's own loop; spikes come first in what a step answers."""
    state, spikes = cell.reset_mem(), []
    state = state if isinstance(state, tuple) else (state,)
    for step in current.unbind(0):
        spike, *state = cell(step, *state)
        if isinstance(cell, snn.RLeaky):
            state = [spike, *state]
        spikes.append(spike)
    return torch.stack(spikes)


PER_NEURON = torch.linspace(0.3, 0.95, SIZE, dtype=torch.float64)
RESETS = list(itertools.product(["subtract", "zero", "none"], [True, False]))
CASES = {}
for reset, delay in RESETS:
    options = {"reset_mechanism": reset, "reset_delay": delay}
    for beta in (0.0, 0.9, 1.0, PER_NEURON):
        name = f"leaky-{reset}-{delay}-{'each' if beta is PER_NEURON else beta}"
        CASES[name] = (Leaky(exact(beta), 0.8, **options), snn.Leaky(exact(beta), exact(0.8), **options))
    threshold = PER_NEURON + 0.5
    CASES[f"leaky-{reset}-{delay}-thresholds"] = (
        Leaky(0.9, threshold, **options),
        snn.Leaky(exact(0.9), threshold, **options),
    )
    pair = exact(0.7), exact(0.9)
    CASES[f"synaptic-{reset}-{delay}"] = (Synaptic(*pair, **options), snn.Synaptic(*pair, **options))
    for kind in ("linear", "one", "each"):
        theirs = {
            "linear": lambda options=options: snn.RLeaky(
                exact(0.9), linear_features=SIZE, spike_grad=double_spikes, **options
            ).double(),
            "one": lambda options=options: snn.RLeaky(
                exact(0.9), V=exact(0.7), all_to_all=False, spike_grad=double_spikes, **options
            ),
            "each": lambda options=options: snn.RLeaky(
                exact(0.9), V=PER_NEURON, all_to_all=False, spike_grad=double_spikes, **options
            ),
        }[kind]()
        ours = RLeaky(0.9, theirs.recurrent if kind == "linear" else theirs.recurrent.V, **options)
        CASES[f"rleaky-{reset}-{delay}-{kind}"] = (ours, theirs)
for reset in ("subtract", "zero", "none"):
    options = {"reset_mechanism": reset}
    CASES[f"alpha-{reset}"] = (Alpha(exact(0.9), exact(0.8), **options), snn.Alpha(exact(0.9), exact(0.8), **options))
    theirs = snn.Lapicque(R=exact(5.0), C=exact(3.0), time_step=exact(2.0), **options)
    CASES[f"lapicque-{reset}"] = (Lapicque(R=5.0, C=3.0, time_step=2.0, **options), theirs)
CASES["inhibition"] = (Leaky(0.9, inhibition=True), snn.Leaky(exact(0.9), inhibition=True))
CASES["graded"] = (Leaky(0.9, graded_spikes_factor=2.5), snn.Leaky(exact(0.9), graded_spikes_factor=2.5))
CASES["graded-at-once"] = (
    Leaky(0.9, graded_spikes_factor=2.5, reset_delay=False),
    snn.Leaky(exact(0.9), graded_spikes_factor=2.5, reset_delay=False),
)
every = pytest.mark.parametrize("name", CASES)


@pytest.fixture
def current():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(T, BATCH, SIZE, dtype=torch.float64, generator=generator)


@every
def test_spikes_are_snntorchs(name, current):
    ours, theirs = CASES[name]
    with torch.no_grad():
        want, got = over_time(theirs, current), ours(current)
    assert 0.01 < (want != 0).double().mean() < 0.99
    assert (got != want).sum() == 0


@every
def test_windows_of_time_and_the_graph_give_the_same_spikes(name, current):
    ours, _ = CASES[name]
    with torch.no_grad():
        want, state, spikes = ours(current), None, []
        for window in current.split([1, 1, 7, 16]):
            given, state = ours.scan(window, state)
            spikes.append(given)
    assert torch.equal(torch.cat(spikes), want)
    assert torch.equal(ours(current.clone().requires_grad_()).detach(), want)


@every
def test_gradients_are_snntorchs(name, current):
    ours, theirs = CASES[name]
    weight = torch.randn(T, BATCH, SIZE, dtype=torch.float64)
    gradients = []
    for f in (ours, lambda c: over_time(theirs, c)):
        x = current.clone().requires_grad_()
        gradients.append(torch.autograd.grad((f(x) * weight).sum(), x)[0])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)  # snnTorch's pass through 32-bit spikes
    pulled = pull_back(ours, current, weight)
    torch.testing.assert_close(pulled, gradients[0])


@pytest.mark.parametrize("learned", ["beta", "threshold"])
def test_learned_parameters_have_the_gradient_of_snntorch(learned, current):
    start = PER_NEURON.float()
    options = {f"learn_{learned}": True, learned: start.clone()}
    ours, theirs = Leaky(**{"beta": 0.9} | options), snn.Leaky(**{"beta": 0.9} | options)
    current, weight = current.float(), torch.randn(T, BATCH, SIZE)
    (ours(current) * weight).sum().backward()
    (over_time(theirs, current) * weight).sum().backward()
    mine, reference = getattr(ours, learned).grad, getattr(theirs, learned).grad
    assert reference.abs().sum() > 0
    torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-4)
    ours.zero_grad()
    pull_back(ours, current, weight)
    torch.testing.assert_close(ours.gradients[getattr(ours, learned)], reference, rtol=1e-4, atol=1e-4)


def test_a_compiled_scan_gives_the_same_spikes():
    current = torch.randn(21, 4, 16)
    for kind in (Leaky, Synaptic):
        assert torch.equal(kind(compiled=True)(current), kind()(current))


def test_a_recurrent_population_learns_what_it_heard():
    neurons = RLeaky(0.9, nn.Linear(4, 4, bias=False), reset_mechanism="none").train()
    with torch.no_grad():
        spikes, found = neurons(torch.rand(5, 3, 4) * 2), {}
    delta = torch.randn(3, 4)
    neurons.learn(delta, lambda parameter, gradient: found.update({parameter: gradient}))
    ((left, right),) = found.values()
    torch.testing.assert_close(left.t() @ right, delta.t() @ (spikes[:-1].sum(0) / 5))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Leaky(1.1), "beta is 1.1; it must be from 0 to 1"),
        (lambda: Leaky(-0.1), "beta is -0.1"),
        (lambda: Leaky(float("nan")), "beta is nan"),
        (lambda: Leaky(torch.tensor([0.5, 1.5])), "beta is 1.5"),
        (lambda: Leaky(0.9, 0.0), "threshold is 0; it must be above 0"),
        (lambda: Leaky(0.9, -1.0), "threshold is -1"),
        (lambda: Leaky(0.9, reset_mechanism="half"), "'subtract', 'zero', 'none'"),
        (lambda: Synaptic(alpha=2.0), "alpha is 2"),
        (lambda: Alpha(0.5, 0.5), "alpha must be above beta"),
        (lambda: Alpha(reset_delay=False), "reset_delay"),
        (lambda: Lapicque(), "give beta, or R and C"),
        (lambda: Lapicque(1.0), "beta is 1.0"),
        (lambda: Lapicque(R=0.0, C=1.0), "R is 0"),
        (lambda: RLeaky(recurrent=nn.Tanh()), "no local update"),
        (
            lambda: Leaky(torch.full((5,), 0.9))(torch.zeros(3, 2, 4)),
            r"beta has the shape \[5\]; the neurons have \[4\]",
        ),
        (lambda: Leaky()(torch.full((3, 2, 4), float("nan"))), "not a number"),
        (lambda: Synaptic()(torch.full((3, 2, 4), float("nan"))), "not a number"),
    ],
)
def test_bad_values_are_named(make, said):
    with pytest.raises(EdgepepError, match=said):
        make()


def test_snntorch_keeps_no_list_of_our_neurons(current):
    before = len(snn.SpikingNeuron.instances)
    ours = [kind() for kind in (Leaky, Synaptic, Alpha, RLeaky)]
    for neurons in ours:
        neurons(current)
        neurons(current[:, :3])
    assert len(snn.SpikingNeuron.instances) == before
    assert all(isinstance(n, Spiking) for n in ours)
