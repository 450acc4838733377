"""Synaptic operations and sparsity of a forward pass: against counts by hand, and against NeuroBench."""

import json
import subprocess
import sys
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn.functional import relu

from edgepep import EdgepepError, Frames, Layer, Leaky, Network, Rate, Repeat, convert, load
from edgepep.cli import main
from edgepep.local import effective_weight
from edgepep.profiling import workload
from edgepep.profiling.sparsity_report import HEAD
from edgepep.synapses import PaddedConv2d, linear
from tests.conftest import KINDS, SHAPES, make_shaped
from tests.test_profile_command import typed

SMALL = ("--model", "digits-fc", "--activity")


def on_grid(module, seed=0, share=0.7):
    """Weights on a coarse grid, so that no sum is rounded; some of them zero."""
    generator = torch.Generator().manual_seed(seed)
    for weight in module.parameters():
        if weight.dim():
            drawn = torch.randint(-8, 9, weight.shape, generator=generator) / 16
            weight.data.copy_(drawn * (torch.rand(weight.shape, generator=generator) < share))
    return module.eval()


def inputs(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 5, shape, generator=generator) / 4


# By hand.


def test_two_linear_layers_by_hand():
    first, last = nn.Linear(3, 2), nn.Linear(2, 2, bias=False)
    first.weight.data = torch.tensor([[1.0, 0.0, 2.0], [-1.0, 0.0, 0.0]])
    first.bias.data = torch.tensor([0.0, -1.0])
    last.weight.data = torch.tensor([[1.0, 5.0], [0.0, 5.0]])
    network = Network([Layer(first, nn.ReLU()), Layer(last)])
    found = workload(network, torch.tensor([[0.5, 9.0, 0.0], [0.5, 0.0, 3.0]]))
    # of x, element 0 meets two weights that are not zero, element 1 none, element 2 one: 2 + 0 and 2 + 1
    # answers: (0.5, -1.5) and (6.5, -1.5), so ReLU gives (0.5, 0), (6.5, 0); element 0 meets one weight
    assert [layer.name for layer in found.layers] == ["0", "1"]
    assert [layer.dense for layer in found.layers] == [6, 4]
    assert [layer.macs for layer in found.layers] == [2.5, 1.0]
    assert (found.acs, found.samples, found.steps) == (0, 2, 1)
    assert [layer.sparsity for layer in found.layers] == [0.5, None]
    assert (found.sparsity, found.spike_rate) == (0.5, None)


def test_padding_is_no_input():
    conv = nn.Conv2d(1, 1, 3, padding=1, bias=True)
    conv.weight.data.fill_(1.0)
    conv.weight.data[0, 0, 1, 1] = 0.0
    network = Network([Layer(conv, nn.ReLU()), Layer(nn.Linear(9, 2), prepare=nn.Flatten())])
    x = torch.zeros(1, 1, 3, 3)
    x[0, 0, 1, 1], x[0, 0, 0, 0] = 2.0, 3.0
    first, _ = workload(network, x).layers
    assert first.dense == 4 * 4 + 4 * 6 + 9  # corners, edges, centre; the usual formula says 81
    assert first.macs == 8 + 3


def test_a_padding_of_ones_own_is_no_input_either():
    conv = PaddedConv2d(1, 1, 2, stride=2, pads=(0, 1, 0, 1), bias=False)
    network = Network([Layer(conv, nn.ReLU()), Layer(nn.Linear(4, 2), prepare=nn.Flatten())])
    assert workload(network, torch.rand(2, 1, 3, 3)).layers[0].dense == 9


def test_spikes_are_accumulates_and_a_constant_current_is_counted_at_every_step():
    first, last = nn.Linear(2, 1, bias=False), nn.Linear(1, 3, bias=False)
    first.weight.data = torch.tensor([[1.0, 1.0]])
    last.weight.data = torch.tensor([[1.0], [1.0], [0.0]])
    network = Network(
        [Layer(first, Leaky(1.0, reset_mechanism="none"), decode=Rate()), Layer(last, Leaky(0.5), decode=Rate())],
        Repeat(4),
    )
    found = workload(network, torch.tensor([[0.25, 0.25]]))
    # potentials 0.5, 1, 1.5, 2: spikes in the last two of four steps
    hidden = found.layers[0]
    assert (hidden.dense, hidden.macs, hidden.acs, hidden.executed) == (8, 8, 0, 2)
    assert (hidden.sparsity, hidden.spike_rate) == (0.5, 0.5)
    answer = found.layers[1]
    assert (answer.dense, answer.macs, answer.acs, answer.executed) == (12, 0, 4, 12)
    assert (found.dense, found.executed, found.steps) == (20, 14, 4)
    assert [layer.steps for layer in found.layers] == [4, 4]


def test_minus_one_is_a_spike_too_and_one_half_is_not():
    network = Network([Layer(nn.Linear(3, 2, bias=False))])
    assert workload(network, torch.tensor([[-1.0, 0.0, 1.0]])).acs == 4
    mixed = torch.tensor([[-1.0, 0.0, 1.0], [0.5, 0.0, 0.0]])
    assert (workload(network, mixed).acs, workload(network, mixed).macs) == (0, 3)
    assert (workload(network, mixed, batch=1).acs, workload(network, mixed, batch=1).macs) == (2, 1)


def test_what_does_not_answer_in_zeros_does_not_count():
    network = Network([Layer(nn.Linear(4, 3), nn.Tanh()), Layer(nn.Linear(3, 2))])
    assert workload(network, torch.rand(5, 4)).sparsity is None


def test_layers_without_weights_count_by_their_activation():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            x = relu(self.a(x))
            return self.c(relu(x + self.b(x)))

    module = on_grid(Residual())
    x = inputs(6, 4)
    hidden = relu(module.a(x))
    answers = torch.cat([hidden, relu(hidden + module.b(hidden))])
    found = workload(convert(module, x), x)
    assert found.sparsity == pytest.approx(float((answers == 0).double().mean()))
    assert found.dense == 16 + 16 + 8


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_network_in_any_batch(kind, shape):
    network = make_shaped(kind, shape).train()
    modes = [m.training for m in network.modules()]
    x = torch.rand(7, *SHAPES[shape])
    found = workload(network, x)
    assert [m.training for m in network.modules()] == modes
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    assert 0 < found.macs + found.acs < found.dense
    assert (found.spike_rate is not None) == ("spiking" in kind)
    one = workload(network, x, batch=1)
    assert (one.dense, one.sparsity) == (found.dense, found.sparsity)
    assert one.macs + one.acs == pytest.approx(found.macs + found.acs)


def test_quantised_weights_count_after_rounding():
    synapses = linear(4, 2, bias=False, bits=2)
    synapses.weight.data = torch.tensor([[1.0, 0.1, -1.0, 0.1], [0.1, 1.0, 0.1, 0.1]])
    assert int((effective_weight(synapses) != 0).sum()) == 3
    assert workload(Network([Layer(synapses)]), torch.full((1, 4), 0.5)).macs == 3


def test_windows_change_nothing():
    network = load("digits-fc").spiking(6).build()
    x = torch.rand(5, 1, 8, 8)
    whole = workload(network, x)
    network.window = 2
    assert workload(network, x) == whole
    assert network.window == 2


def test_what_cannot_be_counted_is_told():
    network = Network([Layer(nn.Linear(4, 2))])
    for said, x, batch in (("no inputs", torch.rand(0, 4), None), ("batch is 0", torch.rand(1, 4), 0)):
        with pytest.raises(EdgepepError, match=said):
            workload(network, x, batch)
    with pytest.raises(EdgepepError, match="layer 0: the operations of PReLU"):
        workload(Network([Layer(nn.PReLU())]), torch.rand(1, 4))


# Against NeuroBench.


def neurobench(module, x, spiking=False, batch=4):
    """NeuroBench's own figures: dense, effective MACs, effective ACs, activation sparsity.

    x is [n, ...], or of a spiking module [n, time, ...].
    """
    metrics = pytest.importorskip("neurobench.metrics.workload", reason="needs `pip install neurobench`")
    from neurobench.benchmarks import Benchmark
    from neurobench.models import SNNTorchModel, TorchModel
    from torch.utils.data import DataLoader, TensorDataset

    model = (SNNTorchModel if spiking else TorchModel)(module)  # no copy: snnTorch does not reset those
    loader = DataLoader(TensorDataset(x, torch.zeros(len(x))), batch_size=batch)
    asked = [metrics.SynapticOperations, metrics.ActivationSparsity]
    with torch.no_grad():
        found = Benchmark(model, loader, [], [], [[], asked]).run(quiet=True)
    operations = found["SynapticOperations"]
    return operations["Dense"], operations["Effective_MACs"], operations["Effective_ACs"], found["ActivationSparsity"]


def agree(network, x, theirs, batch=4):
    ours = workload(network, x, batch=batch)
    assert (ours.dense, ours.macs, ours.acs) == theirs[:3]
    assert ours.dense > 0
    assert ours.sparsity == pytest.approx(theirs[3], abs=1e-6)
    return ours


def test_fully_connected_as_neurobench():
    module = on_grid(nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 20), nn.ReLU()))
    module.append(on_grid(nn.Linear(20, 10)))
    x = inputs(10, 1, 8, 8)
    agree(convert(module, x), x, neurobench(module, x))


CONVOLUTIONS = {
    "padding": {"kernel_size": 3, "padding": 1},
    "stride": {"kernel_size": 3, "padding": 1, "stride": 2},
    "uneven stride": {"kernel_size": 2, "stride": (2, 3)},
    "wide padding": {"kernel_size": 5, "padding": (4, 0), "dilation": (1, 2)},
    "groups": {"kernel_size": 3, "padding": 1, "groups": 2},
    "same": {"kernel_size": 4, "padding": "same"},
    "reflect": {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
}


@pytest.mark.parametrize("geometry", CONVOLUTIONS)
def test_convolutions_as_neurobench(geometry):
    first = nn.Conv2d(2, 4, 3, padding=1)
    second = nn.Conv2d(4, 6, **CONVOLUTIONS[geometry])
    x = inputs(6, 2, 11, 10)
    features = second(first(x)).flatten(1).shape[1]
    module = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(features, 3))
    agree(convert(on_grid(module), x), x, neurobench(module, x))


def test_a_convolution_in_one_dimension_as_neurobench():
    module = on_grid(
        nn.Sequential(nn.Conv1d(2, 4, 5, stride=2, padding=2), nn.ReLU(), nn.Flatten(), nn.Linear(40, 3), nn.Sigmoid())
    )
    x = inputs(6, 2, 20)
    agree(convert(module, x), x, neurobench(module, x))


def spiking_module(conv=False, kind="Leaky"):
    snn = pytest.importorskip("snntorch")
    own = {"Leaky": {}, "Synaptic": {"alpha": 0.5}, "RLeaky": {"linear_features": 20}}[kind]
    if conv:
        begin = [nn.Conv2d(1, 4, 3, stride=2, padding=1), snn.Leaky(beta=0.5, threshold=0.25, init_hidden=True)]
        begin = [*begin, nn.Flatten(), nn.Linear(64, 20)]
    else:
        begin = [nn.Flatten(), nn.Linear(64, 20)]
    hidden = getattr(snn, kind)(beta=0.5, threshold=0.5, init_hidden=True, **own)
    answer = snn.Leaky(beta=0.5, threshold=0.25, init_hidden=True, output=True)
    return on_grid(nn.Sequential(*begin, hidden, nn.Linear(20, 5), answer))


@pytest.mark.parametrize(("conv", "kind"), [(False, "Leaky"), (True, "Leaky"), (False, "Synaptic"), (True, "RLeaky")])
def test_spiking_as_neurobench(conv, kind):
    module = spiking_module(conv, kind)
    x = inputs(8, 1, 8, 8)
    theirs = neurobench(module, x.unsqueeze(1).expand(-1, 7, -1, -1, -1), spiking=True)
    found = agree(convert(module, x, steps=7), x, theirs)
    assert found.acs > 0
    assert found.macs > 0
    assert found.spike_rate == pytest.approx(1 - theirs[3], abs=1e-6)
    assert sum(layer.name.endswith(".recurrent") for layer in found.layers) == (kind == "RLeaky")


def test_frames_of_spikes_as_neurobench():
    module = spiking_module()
    frames = (torch.rand(8, 5, 64, generator=torch.Generator().manual_seed(1)) < 0.2).float()
    network = convert(module, frames[:, 0], steps=5)
    network.encode = Frames()
    assert agree(network, frames, neurobench(module, frames, spiking=True)).macs == 0


@pytest.mark.parametrize("shape", ["mlp", "conv"])
def test_quantised_as_neurobench_on_the_weights_that_are_used(shape):
    network = make_shaped("quantized", shape).eval()
    x = torch.rand(8, *SHAPES[shape])
    plain = OrderedDict()
    for i, layer in enumerate(network.chain):
        synapses = layer.synapses
        if isinstance(synapses, nn.Linear):
            twin = nn.Linear(synapses.in_features, synapses.out_features)
        else:
            own = synapses
            twin = nn.Conv2d(own.in_channels, own.out_channels, own.kernel_size, own.stride, own.padding)
        twin.weight.data = effective_weight(synapses).clone()
        twin.bias.data = torch.zeros_like(twin.bias) if synapses.bias is None else synapses.bias.data.clone()
        last = i == len(network.chain) - 1
        plain[f"{i}"] = nn.Sequential(OpaquePrepare(layer.prepare), twin, *([] if last else [nn.ReLU()]))
    agree(network, x, neurobench(nn.Sequential(plain), x))


class OpaquePrepare(nn.Module):
    """Work whose own modules NeuroBench does not look into."""

    def __init__(self, work):
        super().__init__()
        self.work = [work]

    def forward(self, x):
        return self.work[0](x)


def test_a_large_network_as_neurobench_but_for_its_rounding():
    network = load("mnist-fc").build()
    module = nn.Sequential(nn.Flatten(), network.chain[0].synapses, nn.ReLU(), network.chain[1].synapses)
    x = torch.rand(64, 1, 28, 28) * (torch.rand(64, 1, 28, 28) < 0.2)
    dense, macs, _, sparsity = neurobench(module, x, batch=64)
    found = workload(network, x, batch=64)
    assert found.dense == 784 * 1024 + 1024 * 10
    assert found.dense == pytest.approx(dense, rel=1e-6)
    assert found.macs == pytest.approx(macs, rel=1e-6)
    assert found.sparsity == pytest.approx(sparsity, abs=1e-6)


# As it is typed.


def test_a_page_of_text():
    page = typed(*SMALL)
    assert "on average over 360 test samples of digits" in " ".join(page.split())
    assert "initial weights" in page
    assert max(map(len, page.splitlines())) <= 80
    assert all(any(line.startswith(name) for line in page.splitlines()) for name in ("layer", "0 ", "1 ", "total"))
    assert page.startswith(typed("--model", "digits-fc").rstrip())


def test_formats_hold_the_same_figures():
    records = json.loads(typed(*SMALL, "--format", "json", "--samples", "50"))["records"]
    own = {(r["quantity"], r["part"]): r["value"] for r in records if not r["rule"]}
    assert own["samples counted", "total"] == 50
    dense = own["dense operations of a sample", "total"]
    assert dense == sum(v for (q, p), v in own.items() if q.startswith("dense") and p != "total")
    assert 0 < own["activation sparsity", "total"] < 1
    assert f"| total | {dense:,} |" in typed(*SMALL, "--format", "markdown", "--samples", "50")
    assert f"<td>{dense:,}</td>" in typed(*SMALL, "--format", "html", "--samples", "50")
    assert f"digits-fc,,dense operations of a sample,total,{dense},operation" in typed(*SMALL, "--format", "csv")
    assert not any(not r["rule"] for r in json.loads(typed("--model", "digits-fc", "--format", "json"))["records"])


def test_a_spiking_recipe_says_what_is_executed_once(tmp_path):
    recipe = tmp_path / "spiking.toml"
    recipe.write_text('base = "digits-fc"\nname = "digits-spiking"\n[spiking]\nsteps = 5\n')
    page = " ".join(typed("--model", str(recipe), "--activity", "--samples", "20").split())
    assert "all 5 time steps together" in page
    assert "edgepep multiplies it once" in page
    assert "Layer 1 reads what was decoded from time, once" in page
    assert "spike rate" in HEAD


def test_a_run_counts_with_its_trained_weights(tmp_path):
    from edgepep import training

    run = tmp_path / "run"
    for _ in training.train(load("digits-fc"), rule="pepita", epochs=1, out=run):
        pass
    page = typed("--model", str(run), "--activity")
    assert "trained by pepita weights" in page
    assert page != typed(*SMALL)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*SMALL, "--samples", "0"), "--samples is 0; it must be at least 1"),
        ((*SMALL, "--samples", "-3"), "--samples is -3"),
        (("--model", "digits-fc", "--samples", "5"), "is of --activity"),
        (("--model", "tests.test_convert:mobile", "--input", "3x16x16", "--activity"), "needs a recipe or a run"),
        (("--model", "digits-f", "--activity"), "did you mean 'digits-fc'"),
        (("--accounting", "exact", "--activity"), "a page of text"),
        (("--model", "some.onnx", "--activity"), "a page of text"),
        (("--model", ".", "--activity"), "is not a run directory"),
    ],
)
def test_what_cannot_be_is_told(arguments, said):
    with pytest.raises(EdgepepError, match=said):
        typed(*arguments)


def test_without_data_it_says_where_they_are_looked_for(tmp_path, monkeypatch):
    import torchvision

    from edgepep import DataError

    def refuse(*_, **__):
        raise RuntimeError("no network")

    monkeypatch.setattr(torchvision.datasets, "MNIST", refuse)
    with pytest.raises(DataError):
        typed("--model", "mnist-fc", "--activity", "--data-dir", str(tmp_path))


def test_odd_values_are_one_line(capsys, monkeypatch):
    for value, said in (("0", "edgepep: error: --samples is 0; it must be at least 1."), ("many", "'--samples'")):
        monkeypatch.setattr("sys.argv", ["edgepep", "profile", *SMALL, "--samples", value])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 2
        assert said in capsys.readouterr().err.strip().splitlines()[-1]


def test_in_a_pipe():
    begin = [sys.executable, "-c", "from edgepep.cli import main; main()"]
    command = [*begin, "profile", *SMALL, "--samples", "5", "--format", "csv"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "digits-fc,,samples counted,total,5,sample,fp32,counted" in done.stdout.splitlines()
