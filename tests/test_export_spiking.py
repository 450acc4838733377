"""Spiking networks in onnxruntime: any number of steps, one step at a time, and integer codes."""

import copy

import onnx
import pytest
import torch
from torch import nn

from edgepep import ExportError, Layer, Network, export
from edgepep.neurons import Alpha, Frames, Lapicque, Latency, Leaky, Poisson, Rate, Repeat, RLeaky, Synaptic, Trace
from edgepep.onnx_files import Runner

KINDS = {
    "leaky": lambda: Leaky(0.8, 0.7),
    "zero": lambda: Leaky(torch.linspace(0.5, 0.9, 16), reset_mechanism="zero", reset_delay=False),
    "synaptic": lambda: Synaptic(0.6, 0.8),
    "alpha": lambda: Alpha(0.9, 0.7),
    "lapicque": lambda: Lapicque(0.9),
    "rleaky": lambda: RLeaky(0.9, nn.Linear(16, 16, bias=False)),
}
T = 12


def network(kind="leaky", code=Repeat, decode=Rate):
    torch.manual_seed(0)
    layers = [
        Layer(nn.Linear(20, 16), KINDS[kind](), nn.Flatten(), decode()),
        Layer(nn.Linear(16, 8, bias=False), Leaky(), None, decode()),
        Layer(nn.Linear(8, 3), None, decode()),
    ]
    with torch.no_grad():
        for layer in layers:
            layer.synapses.weight.mul_(4)
    return Network(layers, code(T) if code is not Frames else Frames()).eval()


INPUTS = torch.rand(1000, 4, 5, generator=torch.Generator().manual_seed(0))
FRAMES = (torch.rand(1000, T, 4, 5, generator=torch.Generator().manual_seed(0)) < 0.4).float()


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_runs_for_any_number_of_steps(kind, tmp_path):
    net, path = network(kind), tmp_path / "net.onnx"
    found = export.save(net, path, "onnx", INPUTS)
    assert (found.samples, found.agreement) == (1000, 1000)
    assert found.spikes == 1000 * T * 24
    assert found.flips <= 1e-5 * found.spikes
    kept = {p.key: p.value for p in onnx.load(path).metadata_props}
    assert kept["edgepep.flips"] == str(found.flips)
    run = Runner(str(path))
    assert run.outputs == ["logits"]
    for steps in (2, 7, 40):
        net.encode = Repeat(steps)
        (logits,) = run({"x": INPUTS[:5], "steps": torch.tensor([steps])})
        torch.testing.assert_close(logits, net(INPUTS[:5]).detach(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("decode", [Rate, Trace])
@pytest.mark.parametrize("code", [Frames, Poisson, Latency])
def test_every_code(code, decode, tmp_path):
    net, path = network(code=code, decode=decode), tmp_path / "net.onnx"
    found = export.save(net, path, "onnx", FRAMES if code is Frames else INPUTS)
    assert found.agreement == 1000
    run = Runner(str(path))
    if code is Frames:
        (logits,) = run({"x": FRAMES[:3, :5].contiguous()})
        torch.testing.assert_close(logits, net(FRAMES[:3, :5]).detach(), atol=1e-4, rtol=1e-4)
    else:
        assert run.inputs == ["spikes"]


@pytest.mark.parametrize("code", [Repeat, Frames, Poisson])
@pytest.mark.parametrize("kind", KINDS)
def test_one_step_at_a_time(kind, code, tmp_path):
    net, path = network(kind, code), tmp_path / "net.onnx"
    found = export.save(net, path, "onnx_spiking_step", FRAMES if code is Frames else INPUTS)
    assert found.agreement == 1000
    assert found.flips <= 1e-5 * found.spikes
    assert not any(node.op_type == "Scan" for node in onnx.load(path).graph.node)


def test_a_step_does_not_hold_a_trace(tmp_path):
    with pytest.raises(ExportError, match="layer 0 reads a trace"):
        export.save(network(decode=Trace), tmp_path / "net.onnx", "onnx_spiking_step", INPUTS)
    assert not list(tmp_path.iterdir())


def test_a_module_whose_state_would_be_dropped_is_refused(tmp_path):
    import snntorch as snn

    module = nn.Sequential(nn.Linear(20, 4), snn.Leaky(0.9, init_hidden=True))
    with pytest.raises(ExportError, match="lose it without a word"):
        export.save(module, tmp_path / "net.onnx", "onnx", INPUTS)


def test_spikes_that_differ_are_counted(tmp_path, monkeypatch):
    net, path = network(), tmp_path / "net.onnx"
    export.save(net, path, "onnx", INPUTS)
    other = copy.deepcopy(net)
    with torch.no_grad():
        other.chain[0].synapses.weight[0] += 0.05
    target = export._target("onnx_spiking")
    monkeypatch.setattr(target, "TOLERANCE", (10.0, 1.0))
    assert target.check(net, path, INPUTS).flips == 0
    assert target.check(other, path, INPUTS).flips > 100


def quantised(bits, code=Repeat, convolutional=False):
    from edgepep.synapses import conv, linear

    torch.manual_seed(0)
    first = conv(1, 4, 3, bias=True, bits=bits) if convolutional else linear(20, 16, bias=True, bits=bits)
    layers = [
        Layer(first, Leaky(0.8, 0.7), None if convolutional else nn.Flatten(), Rate()),
        Layer(linear(24 if convolutional else 16, 8, bias=False, bits=bits), Leaky(), nn.Flatten(), Rate()),
        Layer(linear(8, 3, bias=False, bits=bits), None, Rate()),
    ]
    with torch.no_grad():
        for layer in layers:
            layer.synapses.weight.mul_(4)
    return Network(layers, code(T) if code is not Frames else Frames()).eval()


@pytest.mark.parametrize("code", [Repeat, Frames, Poisson])
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("convolutional", [False, True], ids=["dense", "conv"])
def test_integer_codes_lose_no_spike(bits, code, convolutional, tmp_path):
    net, path = quantised(bits, code, convolutional), tmp_path / "net.onnx"
    x = FRAMES if code is Frames else (INPUTS * 255).round() / 255
    x = x.unsqueeze(-3) if convolutional else x
    found = export.save(net, path, "onnx", x)
    assert (found.flips, found.agreement) == (0, 1000)
    assert found.spikes > 100_000
    assert found.trained_agreement >= 995
    model = onnx.load(path)
    assert {t.data_type for t in model.graph.initializer if t.name.endswith("codes")} == {onnx.TensorProto.INT8}


def test_what_has_no_integer_form_is_named(tmp_path):
    with pytest.raises(ExportError, match="multiples of 1/255"):
        export.save(quantised(8), tmp_path / "net.onnx", "onnx", INPUTS)
    with pytest.raises(ExportError, match="does not suit"):
        export.save(network(), tmp_path / "net.onnx", "onnx_spiking_codes", INPUTS)
    pooled = quantised(8)
    pooled.chain[1].prepare = nn.Sequential(nn.Flatten(), nn.AvgPool1d(1))
    with pytest.raises(ExportError, match="after AvgPool1d there are no integers"):
        export.save(pooled, tmp_path / "net.onnx", "onnx", (INPUTS * 255).round() / 255)
