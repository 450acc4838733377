"""Spiking neurons against snnTorch, dropout and noise against their promises."""

import pytest
import torch
from snntorch import Leaky as Reference

from edgepep import Dropout, EdgepepError, Leaky, Rate, Repeat, noise


def reference(current, beta, threshold):
    cell = Reference(beta=beta, threshold=threshold)
    potential, spikes = torch.zeros_like(current[0]), []
    for step in current.unbind(0):
        spike, potential = cell(step, potential)
        spikes.append(spike)
    return torch.stack(spikes)


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("threshold", [0.5, 1.0])
def test_leaky_is_snntorchs_spike_for_spike(beta, threshold):
    current = torch.randn(25, 8, 64, dtype=torch.float64)
    ours, theirs = Leaky(beta, threshold)(current), reference(current, beta, threshold)
    assert ours.sum() > 0
    assert torch.equal(ours, theirs)


def test_backprop_through_time_is_snntorchs():
    current = torch.randn(12, 4, 16, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(12, 4, 16, dtype=torch.float64)
    grads = [
        torch.autograd.grad((f(current) * weight).sum(), current)[0]
        for f in (Leaky(), lambda c: reference(c, 0.9, 1.0))
    ]
    torch.testing.assert_close(*grads, atol=1e-5, rtol=1e-4)  # snnTorch keeps beta as a 32-bit float


def test_no_state_is_kept_between_calls():
    neurons, current = Leaky(), torch.randn(5, 3, 4)
    first = neurons(current)
    neurons(torch.randn(5, 7, 4))
    assert torch.equal(neurons(current), first)


def test_direct_code_is_not_copied_and_the_rate_of_a_constant_is_exact():
    x = torch.rand(3, 4)
    code = Repeat(25)(x)
    assert code.untyped_storage().nbytes() == x.untyped_storage().nbytes()
    assert torch.equal(Rate()(code), x)


@pytest.mark.parametrize(
    "wrong", [lambda: Leaky(1.1), lambda: Leaky(0.9, 0.0), lambda: Repeat(0), lambda: Dropout(1.0)]
)
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(EdgepepError, match=r"must be|at least"):
        wrong()


def test_dropout_repeats_until_renewed():
    dropout, x = Dropout(0.3), torch.ones(64, 1000)
    first = dropout(x)
    assert torch.equal(dropout(x), first)
    assert abs(float((first == 0).float().mean()) - 0.3) < 0.01
    assert torch.allclose(first[first != 0], torch.tensor(1 / 0.7))
    dropout.renew()
    second = dropout(x)
    assert abs(float(((first == 0) & (second == 0)).float().mean()) - 0.09) < 0.01
    assert torch.equal(dropout.eval()(x), x)


def test_noise_is_a_fixed_function_of_its_key():
    key = noise.key(1, 2, 3)
    assert torch.equal(noise.bits((4,), key), noise.bits((8,), key)[:4])
    assert noise.key(1, 2).item() != noise.key(2, 1).item()
    values = noise.uniform((100_000,), 2.0, key)
    assert values.abs().max() <= 2
    assert abs(float(values.mean())) < 0.02
    assert abs(float(values.var()) - 4 / 3) < 0.02
    assert noise.bits((3,), noise.key(0)).tolist() == GOLDEN


GOLDEN = [-1368424207, -1609466903, -1464521761]  # bits that every device and version must give
