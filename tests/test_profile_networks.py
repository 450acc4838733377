"""Known networks to the last operation, random ones against independent counters, and what the allocator says."""

import csv
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgepep import InPlaceSGD, Layer, Network, datasets, load
from edgepep.products import as_torch_does
from edgepep.profiling.arena import plan
from edgepep.profiling.costs import CHECKPOINTED, HELD, costs
from edgepep.profiling.measure import allocations, peak_bytes, predicted_peak
from edgepep.profiling.observe import observe, profile, random_batch
from edgepep.profiling.subject import subject
from edgepep.rules.backprop import Backprop
from edgepep.rules.mempepita import Mempepita
from edgepep.rules.pepita import Pepita

# MLPerf Tiny reference networks: forward MACs, backward and update MACs together, values that autograd saves.
TINY = {
    "ds-cnn": (2_656_768, 4_993_536, 72_554),
    "mobilenet": (7_489_664, 14_481_664, 259_456),
    "resnet8": (12_501_632, 24_560_896, 76_864),
    "autoencoder": (264_192, 446_464, 1_672),
}
TABLES = Path(__file__).parent.parent.parent / "shared" / "spec" / "tables"


@pytest.mark.parametrize("name", TINY)
def test_tiny_networks_to_the_last_operation(name):
    forward, backward, _ = TINY[name]
    by_backprop = profile(load(name), "backprop", batch=1)
    assert by_backprop.macs == {"forward pass": forward, "backward": backward}
    by_pepita = costs(subject(name), "pepita", batch=1).device_step
    assert by_pepita.macs["update"] == forward  # one outer product a layer costs what the layer does
    assert by_pepita.macs["forward pass"] == forward


@pytest.mark.parametrize("name", TINY)
def test_autograd_saves_as_many_values_as_are_counted(name):
    network = load(name).build()
    x, _ = random_batch(load(name), 1)
    weights = {p.untyped_storage()._cdata for p in network.parameters()}
    saved = {}

    def save(tensor):
        saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        answer = network(x)
    assert answer.requires_grad
    assert sum(t.untyped_storage().nbytes() // 4 for key, t in saved.items() if key not in weights) == TINY[name][2]


@pytest.mark.skipif(not TABLES.is_dir(), reason="the collected tables are not beside the repository")
def test_layers_agree_with_the_collected_table():
    names = {"DS-CNN": "ds-cnn", "MobileNet": "mobilenet", "ResNet": "resnet8", "AutoEncoder": "autoencoder"}
    wanted = {name: [0, 0, 0, 0] for name in names.values()}
    with (TABLES / "layers.csv").open() as file:
        for row in csv.DictReader(file):
            if row["type"] in ("Conv2D", "DepthwiseConv2D", "Dense"):
                keys = ("params", "macc_forward", "macc_backward_dgrad", "macc_weight_update")
                for i, key in enumerate(keys):
                    wanted[names[row["model"]]][i] += int(row[key])
    for name, (parameters, forward, dgrad, update) in wanted.items():
        assert sum(p.numel() for p in load(name).build().parameters()) == parameters
        macs = profile(load(name), "backprop", batch=1).macs
        assert macs == {"forward pass": forward, "backward": dgrad + update}


class _Kept:
    """A context that hands out what allocations() gives at its end."""

    def __enter__(self):
        self.context = allocations()
        self.events = self.context.__enter__()

    def __exit__(self, *error):
        self.context.__exit__(*error)


@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize("rule", ["backprop", "pepita", "mempepita"])
@pytest.mark.parametrize("name", ["mnist-fc", "cifar10-conv", "resnet8"])
def test_the_allocator_peaks_where_the_schedule_says(name, rule, batch):
    recipe = load(name)
    network = recipe.build()
    x, target = random_batch(recipe, batch)
    made = recipe.make_rule(network, rule)
    around = _Kept()
    found = observe(made, x, target, InPlaceSGD(network, 1e-3, 0.9), rule, around=around)
    predicted = predicted_peak(found.trace, around.events)
    assert predicted >= sum(found.memory[k] for k in ("activations kept", "activations rolling", "gradients"))
    with as_torch_does():
        assert peak_bytes(lambda: made(x, target)) == pytest.approx(predicted, rel=0.03)


@st.composite
def networks(draw):
    """A random network of one to six layers: dense, or convolutions, some depthwise, some with a residual sum."""
    depth = draw(st.integers(1, 6))
    if draw(st.booleans()):
        sizes = [draw(st.integers(2, 12)) for _ in range(depth)]
        layers = [Layer(nn.Linear(a, b), nn.ReLU()) for a, b in zip([7, *sizes[:-1]], sizes, strict=True)]
        return Network([*layers, Layer(nn.Linear(sizes[-1], 3))]), torch.randn(2, 7)
    layers, sources, channels = [], [], 4
    for i in range(depth):
        groups = channels if i and draw(st.booleans()) else 1
        kernel = draw(st.sampled_from([1, 3]))
        inputs = channels if i else 2
        layers.append(Layer(nn.Conv2d(inputs, channels, kernel, padding=kernel // 2, groups=groups), nn.ReLU()))
        sources.append((i - 1, i - 2) if i > 1 and draw(st.booleans()) else (i - 1,) if i else None)
    layers.append(Layer(nn.Linear(channels * 25, 3), prepare=nn.Flatten()))
    return Network(layers, None, [*sources, None]), torch.randn(2, 2, 5, 5)


@settings(max_examples=25, deadline=None)
@given(networks())
def test_random_networks_agree_with_fvcore(made):
    from fvcore.nn import FlopCountAnalysis

    network, x = made
    counted = FlopCountAnalysis(network, x).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    by_operator = counted.by_operator()
    found = observe(Pepita(network, x), x, torch.tensor([0, 1]), InPlaceSGD(network, 0.01))
    assert found.macs["forward pass"] == by_operator["conv"] + by_operator["linear"]


@settings(max_examples=25, deadline=None)
@given(networks(), st.sampled_from([Backprop, Pepita, Mempepita]))
def test_the_arena_holds_what_is_alive(made, rule):
    network, x = made
    found = observe(rule(network, x), x, torch.tensor([0, 1]), InPlaceSGD(network, 0.01, follow=False))
    arena = plan(found.trace, found.shapes)
    for a in arena.slots:  # nothing that lives at the same time lies in the same place
        for b in arena.slots:
            if a is not b and a.first <= b.last and b.first <= a.last:
                assert a.offset + a.size <= b.offset or b.offset + b.size <= a.offset
    # an independent liveness check: at every operator, what it reads and what it writes that no input can give way to
    for now, operation in enumerate(found.trace.operations):
        inputs = {b for b in operation.reads if not b.kind and any(b in slot.buffers for slot in arena.slots)}
        later = {b for o in found.trace.operations[now + 1 :] for b in o.reads}
        needed = sum(b.size for b in inputs & later)
        assert needed <= arena.live <= arena.size


def test_checkpointing_is_backpropagation_in_less_memory():
    recipe = load("ds-cnn")
    x, target = random_batch(recipe, 2)
    grads = []
    for checkpoints in (False, True):
        network = recipe.build()
        Backprop(network, x, checkpoints=checkpoints)(x, target)
        grads.append([p.grad for p in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
    held, plain, fewer = (
        costs(subject("ds-cnn"), rule, batch=1).device.ram for rule in (HELD, "backprop", CHECKPOINTED)
    )
    assert fewer < plain < held


@pytest.mark.parametrize("frozen", [("0",), ("0", "1", "2", "3", "4"), ("3",)])
def test_checkpointing_with_frozen_layers(frozen):
    x, target = random_batch(load("ds-cnn"), 2)
    grads = []
    for checkpoints in (False, True):
        network = load("ds-cnn").build()
        network.freeze(*frozen)
        Backprop(network, x, checkpoints=checkpoints)(x, target)
        grads.append([p.grad for p in network.parameters() if p.requires_grad])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_feedback_in_bytes_is_not_scaled_again():
    recipe = load("digits-fc").but(rules={"pepita": {"storage": "int8"}})
    network = recipe.build()
    found = observe(recipe.make_rule(network, "pepita"), *random_batch(recipe, 1), InPlaceSGD(network, 0.1))
    codes = [b for b in found.trace.buffers if b.kind == "feedback F"]
    assert sum(b.at(1.0) for b in codes) == 640 + 4


def test_depth_decides_whether_mempepita_saves_memory():
    ratios = []
    for depth in (1, 8):
        layers = [Layer(nn.Conv2d(2 if i == 0 else 8, 8, 3, padding=1), nn.ReLU()) for i in range(depth)]
        sizes = []
        for rule in (Backprop, Mempepita):
            network = Network([*layers, Layer(nn.Linear(8 * 196, 10), prepare=nn.Flatten())])
            x = torch.randn(1, 2, 14, 14)
            found = observe(rule(network, x), x, torch.tensor([3]), InPlaceSGD(network, 0.01, follow=False))
            sizes.append(plan(found.trace, found.shapes).size)
        ratios.append(sizes[1] / sizes[0])
    assert ratios[0] > 0.95
    assert ratios[1] < 0.7


def test_precision_scales_the_device_and_a_seed_frees_its_feedback():
    plain = costs(subject("resnet8"), "pepita", batch=1).device
    small = costs(subject("resnet8"), "pepita", batch=1, precision="int8").device
    seeded = costs(subject("resnet8"), "pepita", batch=1, seeded=True).device
    assert small.weights == pytest.approx(plain.weights / 4, abs=4 * 20)  # whole words a tensor
    assert small.feedback == plain.feedback / 4
    assert small.ram < plain.ram / 3.9
    assert seeded.feedback < 10
    assert seeded.ram == pytest.approx(plain.ram - plain.feedback, rel=0.01)
    assert plain.feedback == 4 * 10 * 3072


def test_spikes_are_additions():
    data = datasets.load("digits", True).take(slice(0, 8))
    recipe = load("digits-fc").spiking(5)
    network = recipe.build()
    network.chain[1].prepare = nn.Identity()  # reads every step's spikes rather than their rate
    network.chain[1].over_time, network.chain[1].decode = True, network.chain[0].decode
    found = observe(recipe.make_rule(network, "backprop"), *data, InPlaceSGD(network, 0.1), looking=True)
    forward = [o for o in found.trace.operations if o.macs and o.phase == "forward pass"]
    with torch.no_grad():
        spikes = next(network.stream(data[0])).post
    assert forward[1].binary
    assert forward[1].density == pytest.approx(float(spikes.mean()), abs=0.2)
    assert not forward[0].binary
