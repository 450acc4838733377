"""Steps that are recorded and replayed: the same weights, whatever is recorded, and never a stale record."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from edgepep import datasets, load, plugins, recording, rules
from edgepep import loop as loops
from edgepep.layer import Activity
from edgepep.loop import Loop
from edgepep.rule import output_error
from edgepep.rules.pepita import Pepita
from edgepep.training import prepare

from .tape import Tape

DIGITS = datasets.load("digits", True)
CONV = {"synapses": "conv", "features": 4, "kernel": 3}
FLAT = {"prepare": ["maxpool 2", "flatten"], "synapses": "linear", "features": "classes"}
NETWORKS = {
    "conv": {"network": {"layers": [CONV, FLAT]}},
    "dropout": {
        "network": {
            "layers": [
                {"prepare": ["flatten"], "synapses": "linear", "features": 24, "dropout": 0.2},
                {"synapses": "linear", "features": "classes"},
            ]
        }
    },
    "feedback drawn again": {"rules": {"pepita": {"storage": "seed"}}},
    "strength": {"rules": {"pepita": {"strength": 0.05}}},
    "noisy updates": {"training": {"update_noise": 0.5}},
    "product": {"rules": {"pepita": {"feedback": "product"}}},
    "int8": {"quantized": {"weight_bits": 8}},
    "int4 codes": {"quantized": {"weight_bits": 4, "weights": "integer"}},
    "spiking": {"spiking": {"steps": 8}},
    "spiking, Poisson": {"spiking": {"steps": 8, "code": "poisson"}},
}


def loop_of(rule="pepita", network=None, epochs=5, before_step=None):
    """A loop whose rate falls after the fourth epoch; its last batch of an epoch is a short one."""
    recipe = load("digits-fc").but(**NETWORKS.get(network, {})).but(training={"decay_epochs": [4]})
    made, optimizer, scheduler = prepare(recipe, rule, 0, DIGITS, "cpu")
    optimizer.follow = False  # as it is where steps are recorded
    return Loop(made, DIGITS, optimizer, epochs=epochs, batch_size=256, scheduler=scheduler, before_step=before_step)


def same(one, other):
    ours, theirs = one.rule.state_dict(), other.rule.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours) and [e[:3] for e in one.history] == [
        e[:3] for e in other.history
    ]


@pytest.mark.parametrize(
    ("rule", "network"),
    [*((rule, None) for rule in plugins.in_package(rules)), *(("pepita", network) for network in NETWORKS)],
)
def test_replayed_steps_are_the_steps(rule, network):
    plain, replayed = loop_of(rule, network), loop_of(rule, network)
    if not replayed.rule.replayable:
        with pytest.raises(RuntimeError, match="waits for the device"), Tape():
            next(replayed.run())
        assert recording.recorder_for(replayed.rule, torch.device("cuda")) is None
        return
    tape = Tape(looks=network is not None and network.startswith("spiking"))
    replayed.record(tape)
    list(plain.run()), list(replayed.run())
    assert len(tape.calls) == 4, "whole and short batches, at two rates"
    assert tape.replays == 5 * replayed.steps - 2 * recording.WARM - 4
    assert same(plain, replayed)


def test_mirrored_feedback_is_not_recorded():
    network = load("digits-fc").build(0)
    assert not Pepita(network, DIGITS.take(slice(0, 8))[0], feedback="mirrored").replayable
    assert isinstance(
        recording.recorder_for(Pepita(network, DIGITS.take(slice(0, 8))[0]), torch.device("cuda")),
        recording.CudaGraphs,
    )


def test_a_restored_loop_records_anew():
    """Velocities that were restored are other tensors; a record of the old ones would change nothing."""
    import copy

    plain, replayed = loop_of(epochs=3), loop_of(epochs=3)
    tape = Tape()
    replayed.record(tape)
    next(plain.run()), next(replayed.run())
    for loop in (plain, replayed):
        loop.load_state_dict(copy.deepcopy(loop.state_dict()))
    list(plain.run()), list(replayed.run())
    assert len(tape.calls) == 2
    assert same(plain, replayed)


def test_hooks_hear_every_step():
    loop, heard = loop_of(epochs=2), []
    loop.record(Tape())
    next(loop.run())
    loop.rule.network.chain[0].register_forward_hook(lambda *_: heard.append(1))
    list(loop.run())
    assert len(heard) >= loop.steps


def test_what_cannot_be_recorded_is_done_as_ever():
    class Refuses:
        def warm(self, step):
            return step()

        def record(self, step):
            raise RuntimeError("operation not permitted when stream is capturing\nand more")

    plain, other = loop_of(epochs=2), loop_of(epochs=2)
    other.record(Refuses())
    with pytest.warns(UserWarning, match="kernel by kernel: operation not permitted when stream is capturing$"):
        list(other.run())
    list(plain.run())
    assert same(plain, other)


def test_nothing_is_recorded_on_a_cpu_or_with_a_callback(monkeypatch):
    assert loop_of().replayed is None
    monkeypatch.setattr(loops, "recorder_for", lambda rule, device: Tape())
    assert loop_of().replayed is not None
    assert loop_of(before_step=lambda *_: None).replayed is None
    assert recording.recorder_for(loop_of().rule, torch.device("cpu")) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("network", [None, "conv", "dropout", "spiking"])
def test_a_gpu_learns_the_same_replayed(network):
    data = DIGITS.to("cuda")
    found = []
    for replays in (True, False):
        recipe = load("digits-fc").but(**NETWORKS.get(network, {}))
        made, optimizer, scheduler = prepare(recipe, "pepita", 0, data, "cuda")
        optimizer.follow = False
        loop = Loop(made, data, optimizer, epochs=5, batch_size=256, scheduler=scheduler)
        assert loop.replayed is not None
        loop.replayed = loop.replayed if replays else None
        list(loop.run())
        found.append(loop.rule.state_dict())
    for name, ours in found[0].items():
        torch.testing.assert_close(ours, found[1][name], rtol=1e-4, atol=1e-6)


class Rounded(TorchDispatchMode):
    """Rounds what enters a product to so many bits of mantissa; sums stay floats, as in a GPU's tensor cores."""

    def __init__(self, bits):
        super().__init__()
        self.drop = 23 - bits

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        aten = torch.ops.aten
        first = {aten.mm.default: 0, aten.convolution.default: 0, aten.addmm.default: 1}.get(func)
        if first is not None:
            args = [*args[:first], *map(self.rounded, args[first : first + 2]), *args[first + 2 :]]
        return func(*args, **(kwargs or {}))

    def rounded(self, x):
        whole = x.contiguous().view(torch.int32)
        return ((whole + (1 << (self.drop - 1))) & ~((1 << self.drop) - 1)).view(torch.float32).view(x.shape)


@torch.no_grad()
def differences(rule, x, y):
    """H - g of every layer."""
    first = [Activity(*(t.clone() for t in activity)) for activity in rule.network.stream(x)]
    start = Activity(*(t.clone() for t in first[0]))
    error = output_error(rule.network.readout(first[-1].post), y)
    second = rule.network.modulated(start, rule.feedback, error, fixed=False)
    return [h.post - g.post for h, g in zip(first, second, strict=True)]


def test_tf32_keeps_the_difference_of_the_passes_and_bfloat16_does_not():
    """Down to a modulation of 1 % of the input; the first layer's is exact algebra in both, beside its own product."""
    layers = [CONV, CONV | {"features": 8}, {"prepare": ["flatten"], "synapses": "linear", "features": 32}]
    network = (
        load("digits-fc").but(network={"layers": [*layers, {"synapses": "linear", "features": "classes"}]}).build(0)
    )
    x, y = DIGITS.take(slice(0, 64))
    rule = Pepita(network.eval(), x, strength=0.01)
    rule.projection.reach(lambda: rule.modulation(x, y))
    exact = differences(rule, x, y)
    kept = {}
    for name, bits in (("tf32", 10), ("bfloat16", 7)):
        with Rounded(bits):
            found = differences(rule, x, y)
        pairs = zip(exact, found, strict=True)
        kept[name] = [float(torch.cosine_similarity(a.flatten(), b.flatten(), 0)) for a, b in pairs]
    assert min(kept["tf32"]) > 0.99
    assert kept["bfloat16"][0] > 0.99
    assert min(kept["bfloat16"][1:]) < 0.99
