"""NIR files: written, read again, compared spike for spike, also with what snnTorch makes of them; or refused."""

import sys

import pytest
import torch
from torch import nn

from edgepep import (
    Alpha,
    ExportError,
    Frames,
    Lapicque,
    Latency,
    Layer,
    Leaky,
    Network,
    Poisson,
    Rate,
    Repeat,
    RLeaky,
    Synaptic,
    Trace,
    load,
    nir_files,
    plugins,
)
from edgepep.folders import EXPORT

nir = pytest.importorskip("nir", reason="NIR files need the package nir")
TARGET = plugins.module_at(EXPORT / "nir_graph.py")
ZERO = {"reset_mechanism": "zero"}
AT_ONCE = {"reset_mechanism": "zero", "reset_delay": False}


def image(n, *shape):
    """Inputs on a grid of 1/256, as images are."""
    return (torch.rand(n, *shape, generator=torch.Generator().manual_seed(1)) * 256).round() / 256


def on_grid(network):
    """Weights on a grid of 1/256, so that sums of spikes and images are exact in whatever order they are taken."""
    with torch.no_grad():
        for module in network.modules():
            for p in module._parameters.values() if isinstance(module, (nn.Linear, nn.Conv2d)) else ():
                if p is not None:
                    p.copy_((p * 768).round() / 256)
    return network.eval()


def dense(neurons=None, encode=None, read=None):
    """16-12-8-4; the first layer's neurons given."""
    torch.manual_seed(0)
    readout = nn.Sequential(read or Rate())
    layers = [
        Layer(nn.Linear(16, 12), neurons or Leaky(0.9, 0.5, **ZERO), nn.Flatten(), Rate(), name="first"),
        Layer(nn.Linear(12, 8, bias=False), Leaky(0.8, 0.5, **AT_ONCE), decode=Rate()),
        Layer(nn.Linear(8, 4), None, readout),
    ]
    return on_grid(Network(layers, encode or Repeat(15)))


def convolutional():
    torch.manual_seed(0)
    first = Layer(nn.Conv2d(1, 4, 3, padding=1), Leaky(0.9, 0.5, **ZERO), decode=Rate())
    share = torch.linspace(0.3, 0.95, 6).view(6, 1, 1)
    narrow = nn.Conv2d(4, 6, 3, stride=(2, 1), padding=(1, 0), bias=False)
    second = Layer(narrow, Synaptic(0.5, share, 0.7, **AT_ONCE), nn.AvgPool2d(2), Rate())
    third = Layer(nn.Linear(24, 12), Leaky(torch.linspace(0.1, 0.9, 12), **ZERO), nn.Flatten(), Rate())
    return on_grid(Network([first, second, third, Layer(nn.Linear(12, 10), None, Rate())], Repeat(15)))


def written(network, x, path):
    TARGET.save(network, x[:2], path)
    found = TARGET.check(network, path, x)
    assert found.mismatches == 0
    assert found.max_difference == 0
    assert found.fired > 0
    return found


NEURONS = {
    "leaky": lambda: Leaky(0.9, 0.5, **ZERO),
    "leaky at once": lambda: Leaky(0.9, 0.5, **AT_ONCE),
    "learned": lambda: Leaky(torch.rand(12), torch.rand(12) + 0.1, learn_beta=True, learn_threshold=True, **ZERO),
    "no memory": lambda: Leaky(0.0, 0.5, **ZERO),
    "no leak": lambda: Leaky(1.0, 0.5, **ZERO),
    "synaptic": lambda: Synaptic(0.7, 0.9, 0.5, **AT_ONCE),
    "synaptic, one a neuron": lambda: Synaptic(torch.rand(12), torch.rand(12), torch.rand(12) + 0.1, **AT_ONCE),
}


@pytest.mark.parametrize("kind", NEURONS)
def test_what_is_read_again_fires_the_same_spikes(kind, tmp_path):
    network, x = dense(NEURONS[kind]()), image(40, 1, 4, 4)
    found = written(network, x, tmp_path / "n.nir")
    assert found.samples == 40
    assert found.compared == 40 * 15 * (12 + 8)
    read = nir_files.load(tmp_path / "n.nir")
    assert [layer.name for layer in read.chain] == ["first", "1", "2"]
    assert [type(layer.neurons) for layer in read.chain] == [type(layer.neurons) for layer in network.chain]
    assert read.chain[0].neurons.reset_delay == network.chain[0].neurons.reset_delay
    assert read.chain[1].synapses.bias is None
    for name in ("alpha", "beta", "threshold"):
        ours = torch.as_tensor(getattr(network.chain[0].neurons, name, 0.0), dtype=torch.float32)
        assert torch.equal(torch.as_tensor(getattr(read.chain[0].neurons, name, 0.0), dtype=torch.float32), ours)


@pytest.mark.parametrize("code", [Repeat(7), Poisson(7, seed=3), Latency(7, floor=0.2), Frames()], ids=repr)
def test_every_code(code, tmp_path):
    network = dense(encode=code)
    if isinstance(code, Poisson):
        for _ in range(5):
            network.renew_noise()
    written(network, image(40, 7, 16) if isinstance(code, Frames) else image(40, 16), tmp_path / "n.nir")


def test_convolutions_windows_and_fewer_steps(tmp_path):
    network, x = convolutional(), image(20, 1, 8, 8)
    found = written(network, x, tmp_path / "n.nir")
    network.window = 4
    assert written(network, x, tmp_path / "w.nir") == found
    assert network.window == 4
    assert nir_files.load(tmp_path / "n.nir", steps=3).encode.steps == 3


@pytest.mark.parametrize("fires", [True, False])
def test_readouts_over_time(fires, tmp_path):
    torch.manual_seed(0)
    end = Leaky(0.5, 0.3, **ZERO) if fires else None
    layers = [
        Layer(nn.Linear(16, 12), Leaky(0.9, 0.5, **ZERO), decode=Rate()),
        Layer(nn.Linear(12, 4), end, None, Rate()),
    ]
    network = Network(layers, Repeat(9)).eval()
    written(network, image(30, 16), tmp_path / "n.nir")
    assert type(nir_files.load(tmp_path / "n.nir").chain[1].neurons) is type(network.chain[1].neurons)


def test_the_file_says_what_the_graph_does_not(tmp_path):
    network, x = dense(), image(20, 16)
    written(network, x, tmp_path / "n.nir")
    graph = nir.read(str(tmp_path / "n.nir"))
    assert graph.metadata["edgepep"]["steps"] == 15
    assert graph.metadata["edgepep"]["code"] == "constant"
    assert "mean of the output" in graph.metadata["edgepep"]["readout"]
    lif = graph.nodes["neurons_0"]
    assert lif.tau.shape == (12,)
    assert lif.tau == pytest.approx(1e-4 / (1 - 0.9), rel=1e-6)
    assert lif.r == pytest.approx(1 / (1 - 0.9), rel=1e-6)


def snntorchs(graph, x, steps):
    """Spikes [time, sample, ...] of each population, and mean answers, of snnTorch's import, sample by sample."""
    import snntorch
    from snntorch.import_nir import import_from_nir

    net = import_from_nir(graph)
    populations = {n: m for n, m in net.named_modules() if isinstance(m, snntorch.SpikingNeuron)}
    spikes = {name: [] for name in sorted(populations)}
    for name, module in populations.items():
        module.register_forward_hook(lambda m, given, answer, name=name: spikes[name].append(answer.detach()))
    answers = []
    for sample in x:
        for module in populations.values():
            module.reset_mem()
        answers.append(torch.stack([net(sample)[0].detach() for _ in range(steps)]).mean(0))
    over_time = [torch.stack(s).unflatten(0, (len(x), steps)).transpose(0, 1) for s in spikes.values()]
    return over_time, torch.stack(answers)


@pytest.mark.parametrize("make", [dense, convolutional, lambda: dense(NEURONS["synaptic"]())])
def test_snntorch_reads_the_same_spikes(make, tmp_path, capsys):
    pytest.importorskip("nirtorch", reason="snnTorch reads NIR through nirtorch")
    network = make()
    x = image(25, 1, 8, 8) if make is convolutional else image(25, 1, 4, 4)
    written(network, x, tmp_path / "n.nir")
    with torch.no_grad():
        ours = [activity.post for activity in network.stream(x)]
    theirs, answers = snntorchs(nir.read(str(tmp_path / "n.nir")), x, 15)
    assert len(theirs) == len(ours) - 1
    for a, b in zip(ours, theirs, strict=False):
        assert torch.equal(a, b)
    torch.testing.assert_close(answers, ours[-1], rtol=0, atol=1e-5)
    assert "warning" not in capsys.readouterr().out.lower()


@pytest.mark.parametrize(
    ("neurons", "message"), [(Leaky(1.0, **ZERO), "r != 1"), (Leaky(0.9, torch.rand(12) + 0.1, **ZERO), "v_threshold")]
)
def test_what_snntorch_does_not_read(neurons, message, tmp_path):
    pytest.importorskip("nirtorch", reason="snnTorch reads NIR through nirtorch")
    TARGET.save(dense(neurons), image(2, 16), tmp_path / "n.nir")
    with pytest.raises(AssertionError, match=message):
        snntorchs(nir.read(str(tmp_path / "n.nir")), image(1, 16), 1)


def changed(**parts):
    network = dense()
    for name, part in parts.items():
        setattr(network.chain[0], name, part)
    return network


REFUSED = {
    "layer first: reset_mechanism is 'subtract'; .* 'zero'": lambda: dense(Leaky()),
    "reset_mechanism is 'none'": lambda: dense(Leaky(reset_mechanism="none")),
    "reset_delay is True; .*False for Synaptic": lambda: dense(Synaptic(**ZERO)),
    "inhibition is True": lambda: dense(Leaky(inhibition=True, **ZERO)),
    "graded_spikes_factor is set": lambda: dense(Leaky(graded_spikes_factor=2.0, **ZERO)),
    "neurons are RLeaky; .* Leaky or Synaptic": lambda: dense(RLeaky(0.9, 0.5, **ZERO)),
    "neurons are Alpha": lambda: dense(Alpha(**ZERO)),
    "neurons are Lapicque": lambda: dense(Lapicque(0.9, **ZERO)),
    "neurons are ReLU": lambda: changed(neurons=nn.ReLU()),
    "neurons are missing": lambda: changed(neurons=nn.Identity()),
    "alpha is 1": lambda: dense(Synaptic(1.0, 0.9, **AT_ONCE)),
    "beta is 1": lambda: dense(Leaky(torch.linspace(0, 1, 12), **ZERO)),
    "beta is 1e-12, .* give back": lambda: dense(Leaky(1e-12, **ZERO)),
    "layer 2: it is no layer over time": lambda: dense(read=Trace(0.9)),
    "layer first: it is read by Trace": lambda: changed(decode=Trace(0.9)),
    "prepare holds BatchNorm1d": lambda: changed(prepare=nn.BatchNorm1d(16)),
    "prepare holds Max": lambda: changed(prepare=nn.Sequential(nn.MaxPool1d(1))),
    "weight is of torch.float64": lambda: changed(synapses=nn.Linear(16, 12).double()),
    "it reads layers \\[0, 1\\]": lambda: Network(list(dense().chain), Repeat(3), [None, None, [0, 1]]),
    "code is Identity": lambda: Network(list(dense().chain)),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_nir_cannot_say_is_refused(message, tmp_path):
    network = REFUSED[message]()
    with pytest.raises(ExportError, match=message):
        TARGET.save(network, image(2, 16), tmp_path / "n.nir")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (nn.Conv2d(1, 4, (3, 1)), "square kernels, 1 group"),
        (nn.Conv2d(2, 4, 3, groups=2), "square kernels, 1 group"),
        (nn.Conv1d(2, 4, 3), "synapses are Conv1d"),
    ],
)
def test_convolutions_that_nir_gets_wrong_are_refused(odd, message, tmp_path):
    x = image(2, odd.in_channels, *[8] * len(odd.kernel_size))
    network = Network([Layer(odd, Leaky(**ZERO), decode=Rate())], Repeat(3))
    with pytest.raises(ExportError, match=message):
        TARGET.save(network, x, tmp_path / "n.nir")


def test_a_file_that_disagrees_is_refused(tmp_path):
    network, x = dense(), image(20, 16)
    written(network, x, tmp_path / "n.nir")
    network.chain[0].neurons.threshold = 0.4
    with pytest.raises(ExportError, match=r"does not agree with the network: [1-9]"):
        TARGET.check(network, tmp_path / "n.nir", x)


def test_files_of_others(tmp_path):
    ones, path = [1.0] * 3, tmp_path / "n.nir"
    lif = nir.LIF(*(torch.tensor(v).double().numpy() for v in ([5e-4] * 3, [5.0] * 3, [0.0] * 3, ones, [0.0] * 3)))
    weight = torch.eye(3).numpy()
    nir.write(str(path), nir.NIRGraph.from_list(nir.Linear(weight), lif))
    with pytest.raises(ExportError, match="give steps"):
        nir_files.load(path)
    read = nir_files.load(path, steps=4)
    assert read.chain[0].neurons.beta == pytest.approx(0.8)
    assert read(torch.ones(1, 3)).shape == (1, 3)
    lif.r = lif.r * 2
    nir.write(str(path), nir.NIRGraph.from_list(nir.Linear(weight), lif))
    with pytest.raises(ExportError, match="node lif: r is 10; it must be 5"):
        nir_files.load(path, steps=4)
    nir.write(str(path), nir.NIRGraph.from_list(nir.Linear(weight), nir.Threshold(torch.ones(3).numpy())))
    with pytest.raises(ExportError, match="node threshold is Threshold"):
        nir_files.load(path, steps=4)
    path.write_bytes(b"no file of HDF5")
    with pytest.raises(ExportError, match="cannot read"):
        nir_files.load(path)


def test_without_the_package_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nir", None)
    with pytest.raises(ExportError, match=r"pip install 'edgepep\[nir\]'"):
        TARGET.save(dense(), image(2, 16), tmp_path / "n.nir")


def test_it_suits_spiking_networks():
    assert TARGET.suits(dense())
    assert not TARGET.suits(load("digits-fc").build())
