"""Each rule against its equation, written out again by hand on a 4-3-2 network in float64."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot, softplus

from edgepep import EdgepepError, InPlaceSGD, Layer, Network, noise, plugins, rules
from edgepep.build import rule_class
from edgepep.credit import CreditChain, weights_of
from edgepep.local import input_gradient
from edgepep.rules.activation_alignment import ActivationAlignment
from edgepep.rules.brsf import Brsf
from edgepep.rules.dfa import Dfa
from edgepep.rules.drtp import Drtp
from edgepep.rules.f3 import F3
from edgepep.rules.feedback_alignment import FeedbackAlignment
from edgepep.rules.forward_forward import ForwardForward
from edgepep.rules.frsf import Frsf
from edgepep.rules.information_alignment import InformationAlignment
from edgepep.rules.kolen_pollack import KolenPollack
from edgepep.rules.last_layer import LastLayer
from edgepep.rules.pepita import Pepita
from edgepep.rules.spela import Spela
from edgepep.rules.symmetric_alignment import SymmetricAlignment
from edgepep.rules.usf import Usf
from edgepep.rules.weight_mirror import WeightMirror
from edgepep.synapses import PaddedConv2d, same_pads
from tests.conftest import KINDS, SHAPES, make_batch, make_shaped

CHAINS = [n for n in plugins.in_package(rules) if issubclass(rule_class(n), CreditChain)]


@pytest.fixture
def small():
    torch.manual_seed(3)
    layers = [Layer(nn.Linear(4, 3, bias=False), nn.ReLU()), Layer(nn.Linear(3, 2, bias=False))]
    return Network(layers).double(), torch.randn(16, 4).double(), torch.randint(2, (16,))


def weights(network):
    return [layer.synapses.weight.detach().clone() for layer in network.chain]


def grads(network):
    return [layer.synapses.weight.grad for layer in network.chain]


def by_hand(network, x, target, matrix):
    """d_L = e; d_1 = (e M) f'(z_1); each update its outer product, averaged."""
    w1, w2 = weights(network)
    z = x @ w1.T
    h = z.clamp(min=0)
    e = torch.softmax(h @ w2.T, 1) - one_hot(target, 2)
    return [((e @ matrix) * (z > 0)).T @ x / len(x), e.T @ h / len(x)]


def check(network, want):
    for got, gradient in zip(grads(network), want, strict=True):
        torch.testing.assert_close(got, gradient, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", CHAINS)
def test_chain_update_is_the_equation(name, small):
    network, x, target = small
    w2 = weights(network)[1]
    size = w2.std(correction=0)
    uniform = noise.uniform((2, 3), float(size) * math.sqrt(3), noise.key(0, 0xF, 1)).double()
    redrawn = noise.uniform((2, 3), 1.0, noise.key(0, 1, 1)).double() * size * math.sqrt(3)
    matrix = {"usf": size * w2.sign(), "frsf": uniform.abs() * w2.sign(), "brsf": redrawn.abs() * w2.sign()}
    want = by_hand(network, x, target, matrix.get(name, uniform))
    rule_class(name)(network, x)(x, target)
    check(network, want)


@pytest.mark.parametrize("kind", [Usf, Frsf, Brsf])
def test_sign_rules_transport_signs_only(kind, small):
    network, x, _ = small
    rule = kind(network, x)
    before = rule.feedback_matrices()[1]
    with torch.no_grad():
        network.chain[1].synapses.weight.mul_(7.0)
    after = rule.feedback_matrices()[1]
    assert torch.equal(before.sign(), after.sign())
    assert kind is Brsf or torch.equal(before, after)
    assert Usf(network, x, magnitude="mean").feedback_matrices()[1].abs().mean() == pytest.approx(
        float(weights(network)[1].abs().mean())
    )


def test_batchwise_magnitudes_are_drawn_anew(small):
    network, x, _ = small
    rule = Brsf(network, x)
    assert not torch.equal(rule.feedback_matrices()[1], rule.feedback_matrices()[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_feedback_set_to_the_weights_is_backpropagation(kind, shape):
    x, target = make_batch(shape)
    results = []
    for name in ("backprop", "feedback_alignment"):
        network = make_shaped(kind, shape)
        rule = rule_class(name)(network, x)
        for i, feedback in getattr(rule, "feedback", {}).items():
            feedback.codes.copy_(weights_of(network.chain[int(i)]))
        rule(x, target)
        results.append([(p.grad, p) for layer in network.chain for p in layer.synapses.parameters()])
    for (exact, weight), (got, _) in zip(*results, strict=True):
        # Brevitas' gradient differs from the local one in the weight that sets the scale, the largest
        same = weight.abs() < weight.abs().max() if "quantized" in kind and weight.dim() > 1 else weight == weight
        torch.testing.assert_close(got[same], exact[same], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("synapses", "shape"),
    [
        (nn.Linear(4, 3), (5, 4)),
        (nn.Linear(4, 3), (6, 5, 4)),
        (nn.Conv1d(2, 4, 3, padding=1, stride=2), (5, 2, 9)),
        (nn.Conv2d(2, 4, 3, padding=1, stride=2), (5, 2, 7, 6)),
        (nn.Conv2d(4, 4, 3, groups=4, dilation=2), (5, 4, 9, 9)),
        (nn.Conv2d(4, 8, 3, groups=2, padding="same"), (5, 4, 8, 8)),
        (nn.Conv2d(2, 4, 4, padding="same"), (5, 2, 8, 8)),
        (nn.Conv2d(2, 4, 3, padding=2, padding_mode="reflect"), (5, 2, 8, 8)),
        (nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"), (5, 2, 8, 8)),
        (PaddedConv2d(2, 4, 3, stride=2, pads=(0, 1, 0, 1)), (5, 2, 8, 8)),
        (PaddedConv2d(4, 4, 3, stride=2, groups=4, pads=(1, 2, 0, 1)), (5, 4, 7, 8)),
        (nn.BatchNorm2d(3), (5, 3, 4, 4)),
    ],
)
def test_input_gradient_is_autograds(synapses, shape):
    x = torch.randn(shape, requires_grad=True)
    answer = synapses(x)
    delta = torch.randn_like(answer)
    want = torch.autograd.grad(answer, x, delta)[0]
    torch.testing.assert_close(
        input_gradient(synapses, x.detach(), delta, synapses.weight.detach()), want, atol=1e-5, rtol=1e-4
    )


def test_padding_is_tensorflows_same_and_its_gradients_autograds():
    assert same_pads((49, 10), (10, 4), (2, 2)) == (1, 1, 4, 5)  # left, right, above, below
    assert same_pads((96, 96), (3, 3), (2, 2)) == (0, 1, 0, 1)
    conv = PaddedConv2d(2, 4, (10, 4), stride=2, pads=(1, 1, 4, 5))
    x = torch.randn(3, 2, 49, 10, requires_grad=True)
    plain = nn.functional.conv2d(nn.functional.pad(x, (1, 1, 4, 5)), conv.weight, conv.bias, 2)
    assert plain.shape == (3, 4, 25, 5)
    delta = torch.randn_like(plain)
    want = torch.autograd.grad(plain, [x, conv.weight, conv.bias], delta)
    got = torch.autograd.grad(conv(x), [x, conv.weight, conv.bias], delta)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        assert torch.equal(conv(x), plain)


def test_kolen_pollack_gap_decays_exactly(small):
    network, x, target = small
    rule = KolenPollack(network, x, decay=0.01)
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    gap = rule.matrix(1) - weights(network)[1]
    reference = rule.matrix(1).clone()
    for _ in range(50):
        optimizer.zero_grad()
        before = weights(network)[1]
        rule(x, target)
        optimizer.step()
        # the definition, on a copy of M: both lose the same share and get the same change
        reference = reference * 0.99 + (weights(network)[1] - before * 0.99)
    torch.testing.assert_close(rule.matrix(1) - weights(network)[1], gap * 0.99**50)
    torch.testing.assert_close(rule.matrix(1), reference)


def test_kolen_pollack_without_decay_keeps_its_gap(small):
    network, x, target = small
    rule = KolenPollack(network, x, decay=0.0)
    gap = rule.matrix(1) - weights(network)[1]
    InPlaceSGD(network, 0.1, 0.9)
    for _ in range(20):
        rule(x, target)
    torch.testing.assert_close(rule.matrix(1) - weights(network)[1], gap)


def wide():
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 8, 3, padding=1, stride=2)
    layers = [Layer(nn.Linear(12, 27)), Layer(conv, prepare=nn.Unflatten(1, (3, 3, 3))), Layer(nn.Linear(32, 9))]
    layers[2].prepare = nn.Flatten()
    return Network(layers).double(), torch.randn(64, 12).double()


def settle(rule, steps, pre):
    for _ in range(steps):
        rule.begin()
        for i in rule.down:
            rule.align(i, rule.network.chain[i], pre[i])


def apart(a, b):
    """Angle in degrees and ratio of lengths."""
    cosine = torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0)
    return math.degrees(math.acos(min(1.0, float(cosine)))), float(a.norm() / b.norm())


@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_weight_mirror_settles_at_the_weights_over_the_decay(decay):
    network, x = wide()
    rule = WeightMirror(network, x, rate=0.01, mirror_decay=decay)
    with torch.no_grad():
        settle(rule, 3000, [a.pre for a in network.stream(x)])
    for i in rule.down:
        angle, ratio = apart(rule.matrix(i), weights_of(network.chain[i]))
        assert angle < 8
        assert ratio * decay == pytest.approx(1.0, abs=0.05)


def test_symmetric_alignment_settles_at_the_weights():
    network, x = wide()
    rule = SymmetricAlignment(network, x, rate=0.1)
    with torch.no_grad():
        settle(rule, 400, [a.pre for a in network.stream(x)])
    for i in rule.down:
        torch.testing.assert_close(rule.matrix(i), weights_of(network.chain[i]), atol=1e-12, rtol=1e-12)


def test_activation_alignment_settles_at_the_weights_on_the_datas_span():
    network, x = wide()
    rule = ActivationAlignment(network, x, rate=1.5)
    with torch.no_grad():
        pre = [a.pre for a in network.stream(x)]
        settle(rule, 4000, pre)
        own, learned = pre[2] @ weights_of(network.chain[2]).T, pre[2] @ rule.matrix(2).T
    torch.testing.assert_close(learned, own, atol=1e-3, rtol=1e-3)


def test_information_alignment_settles_at_the_ridge_regression():
    network, x = wide()
    rule = InformationAlignment(network, x, rate=0.5, amp=1.0, null=0.8, decay=0.3, input="activity")
    with torch.no_grad():
        pre = [a.pre for a in network.stream(x)]
        settle(rule, 3000, pre)
        y = pre[2] @ weights_of(network.chain[2]).T
        g, c = y.T @ y / len(y), y.T @ pre[2] / len(y)
        want = torch.linalg.solve(0.8 * g + 0.3 * torch.eye(len(g)), c)
    torch.testing.assert_close(rule.matrix(2), want, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("sign", [False, True])
def test_dfa_is_the_equation(sign, small):
    network, x, target = small
    rule = Dfa(network, x, sign=sign)
    w1, w2 = weights(network)
    z = x @ w1.T
    e = torch.softmax(z.clamp(min=0) @ w2.T, 1) - one_hot(target, 2)
    sent = e.sign() if sign else e
    rule(x, target)
    check(network, [((sent @ rule.feedback["0"]()) * (z > 0)).T @ x / 16, e.T @ z.clamp(min=0) / 16])


def test_dfa_forms_of_convolutions():
    x, target = make_batch("conv")
    for form, shape in (("full", (3, 4, 6, 6)), ("channel", (3, 4, 1, 1))):
        network = make_shaped("plain", "conv")
        rule = Dfa(network, x, form=form)
        assert rule.feedback["0"]().shape == shape
        with torch.no_grad():
            first = next(network.stream(x))
            e = torch.softmax(network(x), 1) - one_hot(target, 3)
        delta = torch.einsum("nc,cijk->nijk", e, rule.feedback["0"]().expand(3, 4, 6, 6)) * (first.current > 0)
        rule(x, target)
        want = torch.nn.grad.conv2d_weight(x, (4, 2, 3, 3), delta, padding=1) / 20
        torch.testing.assert_close(network.chain[0].synapses.weight.grad, want, atol=1e-6, rtol=1e-4)


def test_dfa_kernel_form_sends_the_same_error_through_kernels():
    x, target = make_batch("residual")
    network = make_shaped("plain", "residual")
    rule = Dfa(network, x, form="kernel")
    depthwise = rule.feedback["1"]()
    assert depthwise.shape == (3, 4, 3, 3)  # joins the channels that the depthwise kernels keep apart
    with torch.no_grad():
        acts = list(network.stream(x))
        e = torch.softmax(network(x), 1) - one_hot(target, 3)
    everywhere = e[:, :, None, None].expand(20, 3, *acts[1].current.shape[2:])
    credit = torch.nn.grad.conv2d_input((20, 4, 6, 6), depthwise, everywhere, padding=2, dilation=2)
    credit = credit + (e @ rule.feedback["2"]()).view(20, 4, 6, 6)
    rule(x, target)
    want = torch.nn.grad.conv2d_weight(x, (4, 2, 3, 3), credit * (acts[0].current > 0), padding=1) / 20
    torch.testing.assert_close(network.chain[0].synapses.weight.grad, want, atol=1e-6, rtol=1e-4)


def test_drtp_is_the_equation(small):
    network, x, target = small
    rule = Drtp(network, x)
    w1, w2 = weights(network)
    z = x @ w1.T
    e = torch.softmax(z.clamp(min=0) @ w2.T, 1) - one_hot(target, 2)
    rule(x, target)
    hidden = (one_hot(target, 2).double() @ rule.feedback["0"]()) * (z > 0)
    check(network, [hidden.T @ x / 16, e.T @ z.clamp(min=0) / 16])


def test_f3_learns_from_the_last_error_of_each_sample(small):
    network, x, target = small
    rule = F3(network, x)
    samples = torch.randperm(40)[:16]
    w1, w2 = weights(network)
    z = x @ w1.T
    e = torch.softmax(z.clamp(min=0) @ w2.T, 1) - one_hot(target, 2)
    for sent in (0.5 - one_hot(target, 2).double(), e):  # never seen; then seen once, weights unchanged
        network.zero_grad()
        rule(x, target, samples)
        check(network, [((sent @ rule.feedback["0"]()) * (z > 0)).T @ x / 16, e.T @ z.clamp(min=0) / 16])


def test_spela_follows_each_layers_own_loss(small):
    network, x, target = small
    rule = Spela(network, x)
    rule(x, target)
    h = x
    for i, layer in enumerate(network.chain):
        w = layer.synapses.weight.detach().requires_grad_()
        a = h @ w.T if i else (h @ w.T).relu()
        cosine = torch.cosine_similarity(a, rule.get_buffer(f"vectors_{i}")[target], dim=1)
        want = torch.autograd.grad(torch.log(2 - cosine).mean(), w)[0]
        torch.testing.assert_close(layer.synapses.weight.grad, want, atol=1e-6, rtol=1e-5)
        h = a.detach()


@pytest.mark.parametrize(("width", "classes"), [(64, 10), (10, 10), (4, 10)])
def test_spelas_vectors_are_as_far_apart_as_they_go(width, classes):
    network = Network([Layer(nn.Linear(5, width), nn.ReLU()), Layer(nn.Linear(width, classes))])
    rule = Spela(network, torch.randn(2, 5))
    for i in (0, 1):
        v = rule.get_buffer(f"vectors_{i}")
        cosines = (v @ v.T)[~torch.eye(classes, dtype=torch.bool)]
        if v.shape[1] >= classes:  # a regular simplex
            torch.testing.assert_close(cosines, torch.full_like(cosines, -1 / (classes - 1)))
        assert cosines.max() < 0.6


@pytest.mark.parametrize("goodness", ["mean", "sum"])
def test_forward_forward_follows_each_layers_own_loss(goodness, small):
    _, x, target = small
    torch.manual_seed(5)
    layers = [Layer(nn.Linear(4, 3, bias=False), nn.ReLU()), Layer(nn.Linear(3, 3, bias=False), nn.ReLU())]
    network = Network([*layers, Layer(nn.Linear(3, 2, bias=False))]).double()
    rule = ForwardForward(network, x, threshold=0.7, goodness=goodness)
    rule(x, target)
    h = torch.cat([labelled(x, one_hot(label, 2)) for label in (target, 1 - target)])
    sign = torch.cat([torch.ones(16), -torch.ones(16)])
    for layer in network.chain[:2]:
        w = layer.synapses.weight.detach().requires_grad_()
        a = ((h / h.square().mean(1, keepdim=True).sqrt()) @ w.T).relu()
        g = a.square().mean(1) - 0.7 if goodness == "mean" else a.square().sum(1) - 0.7 * 3
        want = torch.autograd.grad(softplus(-sign * g).sum() / 16, w)[0]
        torch.testing.assert_close(layer.synapses.weight.grad, want, atol=1e-6, rtol=1e-5)
        h = a.detach()


def labelled(x, label):
    return torch.cat([label * x.abs().amax(1, keepdim=True), x[:, 2:]], 1)


@pytest.mark.parametrize("negatives", ["uniform", "hard"])
def test_a_negative_never_carries_the_label(negatives):
    network = Network([Layer(nn.Linear(12, 8), nn.ReLU()), Layer(nn.Linear(8, 5))])
    rule = ForwardForward(network, torch.randn(4, 12), negatives=negatives)
    target = torch.randint(5, (4000,))
    logits = torch.zeros(4000, 5)
    logits[:, 2] = 3.0
    rule.step += 1
    wrong = rule.wrong(target, logits)
    assert not (wrong == target).any()
    share = (wrong[target != 2] == 2).float().mean()
    assert share == pytest.approx(0.25 if negatives == "uniform" else math.exp(3) / (math.exp(3) + 3), abs=0.05)


def test_forward_forward_label_reaches_every_patch():
    x, target = make_batch("conv")
    network = make_shaped("plain", "conv")
    rule = ForwardForward(network, x)
    rule.labels.label = target
    changed = (rule.labels(x) - x).abs().amax(1)
    assert (changed.unfold(1, 3, 1).unfold(2, 3, 1).amax((-1, -2)) > 0).all()


def test_last_layers_learn_by_their_exact_gradient(small):
    network, x, target = small
    LastLayer(network, x, layers=2)(x, target)
    got = [g.clone() for g in grads(network)]
    network.zero_grad()
    torch.nn.functional.cross_entropy(network(x), target).backward()
    for a, b in zip(got, grads(network), strict=True):
        torch.testing.assert_close(a, b)
    with pytest.raises(EdgepepError, match="layers is 3"):
        LastLayer(network, x, layers=3)


def test_pepita_hebbian_is_the_equation(small):
    network, x, target = small
    rule = Pepita(network, x, variant="hebbian", feedback_scale=1.0)
    w1, w2 = weights(network)
    t = one_hot(target, 2)
    h = (x @ w1.T).relu()
    y = torch.softmax(h @ w2.T, 1)
    xm = x - (y - t) @ rule.feedback
    g = (xm @ w1.T).relu()
    rule(x, target)
    check(network, [(h.T @ x - g.T @ xm) / 16, (y.T @ h - t.double().T @ g) / 16])
    standard, *_ = [Pepita(network, x, feedback_scale=1.0)]
    before = [g.clone() for g in grads(network)]
    network.zero_grad()
    standard(x, target)
    assert not torch.allclose(before[0], grads(network)[0], rtol=1e-3)


def test_pepita_time_local_is_the_equation(small):
    network, x, target = small
    rule = Pepita(network, x, variant="time_local", feedback_scale=1.0)
    with pytest.raises(EdgepepError, match="InPlaceSGD"):
        rule(x, target)
    InPlaceSGD(network, 0.1)
    w1, w2 = weights(network)
    t = one_hot(target, 2).double()
    h = (x @ w1.T).relu()
    y = torch.softmax(h @ w2.T, 1)
    xm = x - (y - t) @ rule.feedback
    w1, w2 = w1 - 0.1 * h.T @ x / 16, w2 - 0.1 * y.T @ h / 16
    g = (xm @ w1.T).relu()
    rule(x, target)
    want = [w1 + 0.1 * g.T @ xm / 16, w2 + 0.1 * t.T @ g / 16]
    for got, w in zip(weights(network), want, strict=True):
        torch.testing.assert_close(got, w, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("sign", [-1, 1])
def test_product_feedback_points_along_the_forward_weights(sign, small):
    network, x, _ = small
    rule = Pepita(network, x, feedback="product", sign=sign)
    w1, w2 = weights(network)
    angle, _ = apart(rule.feedback, w2 @ w1)
    assert angle == pytest.approx(0.0 if sign == -1 else 180.0, abs=0.01)
    assert float(rule.feedback.std()) == pytest.approx(0.05 * math.sqrt(2 / 4))


@pytest.mark.parametrize("sign", [-1, 1])
def test_mirrored_feedback_learns_the_right_sign(sign, small):
    network, x, target = small
    rule = Pepita(network, x, feedback="mirrored", sign=sign, mirror_rate=0.05)
    for _ in range(300):
        rule(x, target)
    w1, w2 = weights(network)
    angle, _ = apart(rule.feedback, w2 @ w1)
    assert angle < 12 if sign == -1 else angle > 168


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("feedback", ["mirrored", "product"])
def test_feedback_that_changes_takes_its_strength_from_the_first_batch(feedback, sign, small):
    network, x, target = small
    rule = Pepita(network, x, feedback=feedback, sign=sign, strength=0.02)
    rule(x, target)
    assert rule.modulation(x, target) == pytest.approx(0.02, rel=1e-3)
    deviation = rule.feedback.std()
    for _ in range(5):
        rule(3 * x, target)
    torch.testing.assert_close(rule.feedback.std(), deviation)
    again = Pepita(network, x, feedback=feedback, sign=sign, strength=0.02)
    again.load_state_dict(rule.state_dict())
    assert again.projection.wanted == 0
    torch.testing.assert_close(again.feedback, rule.feedback)


def test_a_mirror_begins_as_the_mean_of_what_it_saw(small, monkeypatch):
    network, x, target = small
    rule = Pepita(network, x, feedback="mirrored", mirror_rate=0.01, mirror_every=2)
    seen, drawn = [], noise.uniform

    def watched(shape, bound, key):
        r = drawn(shape, bound, key)
        if r.shape == (64, 4):
            seen.append((r.to(x) @ weights(network)[0].T).T @ r.to(x) / 64)
        return r

    monkeypatch.setattr(noise, "uniform", watched)
    for _ in range(7):
        rule(x, target)
    assert len(seen) == 3
    torch.testing.assert_close(rule.projection.matrices[0](), torch.stack(seen).mean(0))


def test_adversarial_modulation_goes_downhill(small):
    network, x, target = small
    rule = Pepita(network, x, feedback_scale=0.0, adversarial=0.01)
    seen = []
    network.chain[0].register_forward_hook(lambda *_: None)
    original = network.modulated
    network.modulated = lambda *a, **k: seen.append(k["shift"]) or original(*a, **k)
    rule(x, target)
    xg = x.clone().requires_grad_()
    torch.nn.functional.cross_entropy(network(xg), target).backward()
    torch.testing.assert_close(seen[0], 0.01 * xg.grad.sign())
    loss = torch.nn.functional.cross_entropy
    with torch.no_grad():
        assert loss(network(x - seen[0]), target) < loss(network(x), target)
    # and what it teaches is close to the gradient, as h - g is then along it
    got = grads(network)[0].clone()
    network.zero_grad()
    loss(network(x), target).backward()
    assert apart(got, grads(network)[0])[0] < 60


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Usf, {"magnitude": "largest"}),
        (Dfa, {"form": "half"}),
        (Dfa, {"storage": "bits"}),
        (Drtp, {"form": "kernel"}),
        (KolenPollack, {"decay": 2.0}),
        (WeightMirror, {"rate": -1.0}),
        (ActivationAlignment, {"rate": 3.0}),
        (InformationAlignment, {"input": "both"}),
        (ForwardForward, {"label": "corner"}),
        (ForwardForward, {"inference": "none"}),
        (ForwardForward, {"skip": 1}),
        (Pepita, {"variant": "mixed"}),
        (Pepita, {"feedback": "weights"}),
        (FeedbackAlignment, {"storage": "int4"}),
    ],
)
def test_wrong_options_are_named(kind, options, small):
    network, x, _ = small
    with pytest.raises(EdgepepError, match=next(iter(options))):
        kind(network, x, **options)


def test_options_that_exclude_each_other_are_refused(small):
    network, x, _ = small
    with pytest.raises(EdgepepError, match="has its own factors"):
        Pepita(network, x, variant="hebbian", presynaptic="first")
    with pytest.raises(EdgepepError, match="kept in floats"):
        Pepita(network, x, feedback="mirrored", storage="sign")
    with pytest.raises(EdgepepError, match="linear layers in a row"):
        Pepita(make_shaped("plain", "conv"), make_batch("conv")[0], feedback="product")
    with pytest.raises(EdgepepError, match="no room"):
        ForwardForward(Network([Layer(nn.Linear(2, 3))]), torch.randn(4, 2))
