"""The onnxruntime kit: a file runs with numpy and onnxruntime alone."""

import subprocess
import sys
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgepep import ExportError, Layer, Network, datasets, export, load
from edgepep.folders import EXPORT
from edgepep.onnx_files import Runner, _kit
from edgepep.synapses import linear
from edgepep.training import fit, prepare

KIT = EXPORT / "onnxruntime" / "infer.py"
INT4, INT8 = TensorProto.INT4, TensorProto.INT8
DIGITS, CLASSES = datasets.load("digits", True).take(slice(0, 1000))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files of trained networks, the networks' accuracies and the networks, by bits."""
    made, data = {}, datasets.load("digits", True)
    for bits in (8, 4):
        rule, optimizer, _ = prepare(load("digits-fc").quantized(bits), "pepita", 0, data, "cpu")
        for _ in fit(rule, data, optimizer, epochs=2, batch_size=32):
            pass
        path = tmp_path_factory.mktemp("files") / "net.onnx"
        export.save(rule.network, path, "onnx", DIGITS)
        with torch.no_grad():
            right = rule.network.eval()(DIGITS).argmax(1) == CLASSES
        made[bits] = path, float(right.float().mean()), rule.network
    return made


BARE = """
import os, runpy, sys
sys.modules.update(dict.fromkeys(("torch", "edgepep", "onnx", "brevitas")))
sys.argv = sys.argv[1:]
sys.path[0] = os.path.dirname(sys.argv[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def kit(*arguments):
    command = [sys.executable, "-c", BARE, str(KIT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("bits", [8, 4])
def test_it_runs_alone(bits, files, tmp_path):
    path, accuracy, _ = files[bits]
    np.save(tmp_path / "x.npy", DIGITS.numpy())
    np.save(tmp_path / "y.npy", CLASSES.numpy())
    classes = Runner(str(path))({"x": DIGITS})[0].argmax(1)
    ran = kit(path, tmp_path / "x.npy")
    assert (ran.returncode, ran.stdout.split()) == (0, [str(int(c)) for c in classes])
    right = float((classes == CLASSES).float().mean())
    assert abs(right - accuracy) <= 0.002
    for preset in ("parity", "fast"):
        ran = kit(path, tmp_path / "x.npy", tmp_path / "y.npy", "--preset", preset)
        word, value, _, samples = ran.stdout.split()
        assert (ran.returncode, word, samples) == (0, "accuracy", "1000")
        assert abs(float(value) - right) <= (0.0001 if preset == "parity" else 0.005)


def test_errors_are_one_line(files, tmp_path):
    path, _, _ = files[8]
    np.save(tmp_path / "x.npy", DIGITS.numpy())
    np.save(tmp_path / "flat.npy", DIGITS.flatten(1).numpy())
    np.save(tmp_path / "double.npy", DIGITS.double().numpy())
    np.save(tmp_path / "y.npy", CLASSES[:10].numpy())
    (tmp_path / "cut.onnx").write_bytes(path.read_bytes()[:5000])
    (tmp_path / "text.npy").write_text("no numbers")
    x = tmp_path / "x.npy"
    for arguments, said in {
        (tmp_path / "cut.onnx", x): "onnxruntime cannot load the model",
        (tmp_path / "none.onnx", x): "No such file",
        (path, tmp_path / "flat.npy"): "inputs are float32 [250, 64]",
        (path, tmp_path / "double.npy"): "inputs are float64",
        (path, tmp_path / "none.npy"): "No such file",
        (path, tmp_path / "text.npy"): "",
        (path, x, tmp_path / "y.npy"): "there must be one for each",
        (path, x, "--preset", "fats"): "no preset called 'fats'; there are: parity, fast.",
    }.items():
        ran = kit(*arguments)
        assert ran.returncode == 2, arguments
        assert said in ran.stderr
        assert ran.stderr.startswith("infer: error: ")
        assert ran.stderr.count("\n") == 1


def test_it_is_short_and_needs_two_libraries():
    lines = KIT.read_text(encoding="utf-8").splitlines()
    assert len(lines) < 80
    imports = {line.split()[1] for line in lines if line.startswith(("import ", "from "))}
    assert imports == {"argparse", "sys", "numpy", "sessions"}


def shared_numbers(model):
    used = Counter(
        name
        for node in model.graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
        for name in node.input
        if name in {t.name for t in model.graph.initializer}
    )
    return [name for name, count in used.items() if count > 1]


@pytest.mark.parametrize("bits", [8, 4])
def test_scales_are_unshared_and_so_a_processor_that_clips_is_served(bits, files, monkeypatch):
    path, _, network = files[bits]
    model = onnx.load(path)
    assert not shared_numbers(model)
    assert not any("/" in str(p) for node in model.graph.node for p in node.metadata_props)
    monkeypatch.setattr(_kit(), "saturates", lambda: True)
    assert export._target("onnx_qcdq").check(network, path, DIGITS).fast.right >= 995


def test_a_shared_zero_point_crashes_onnxruntime(files, tmp_path, monkeypatch):
    """The control: should this fail, files may share them again."""
    monkeypatch.setattr(_kit(), "saturates", lambda: True)
    model = onnx.load(files[8][0])
    first, *others = [n for n in model.graph.node if n.op_type == "DequantizeLinear" and "codes" in n.input[0]]
    for node in others:
        node.input[2] = first.input[2]
    onnx.save(model, tmp_path / "shared.onnx")
    with pytest.raises(ExportError, match="replace the existing tensor"):
        Runner(str(tmp_path / "shared.onnx"), "fast")


def test_the_probe_finds_a_processor_that_clips(monkeypatch):
    clipped = {"x64quantprecision": False}

    class Session:
        def __init__(self, model, options=None, providers=()):
            if options is not None:
                clipped["x64quantprecision"] = options.get_session_config_entry("session.x64quantprecision") == "1"

        def run(self, outputs, given):
            return [np.full((len(given["a"]), 16), 32 * 32767, np.int32)]

    kit = _kit()
    assert isinstance(kit.saturates(), bool)
    monkeypatch.setattr(kit.onnxruntime, "InferenceSession", Session)
    assert kit.saturates()
    kit.session(b"", "fast")
    assert clipped["x64quantprecision"]


def test_activations_in_floats_are_not_rounded(tmp_path):
    """onnxruntime's MatMulNBits rounds them to 8 bits by itself: not with the presets, and not in our files."""
    x = torch.rand(1000, 64)
    for bits in (8, 4, 1):
        torch.manual_seed(0)
        layers = [Layer(linear(64, 32, bias=True, bits=bits), nn.ReLU()), Layer(linear(32, 5, bias=True, bits=bits))]
        found = export.save(Network(layers), tmp_path / "net.onnx", "onnx", x)
        assert max(found.parity.max_difference, found.fast.max_difference) < 2e-6
        held = onnx.load(tmp_path / "net.onnx").graph.initializer
        assert {t.data_type for t in held if len(t.dims) == 2} == {INT8 if bits == 8 else INT4}
    codes = np.random.default_rng(0).integers(-7, 8, (64, 32))
    scale = numpy_helper.from_array(np.float32(0.01), "scale")
    nodes = [helper.make_node("DequantizeLinear", ["w", "scale"], ["d"]), helper.make_node("MatMul", ["x", "d"], ["y"])]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", s]) for n, s in (("x", 64), ("y", 32))]
    tensors = [helper.make_tensor("w", INT4, codes.shape, codes.flatten().tolist()), scale]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()
    expected = x @ torch.from_numpy((codes * np.float32(0.01)).astype(np.float32))
    for preset in ("parity", "fast"):
        torch.testing.assert_close(Runner(model, preset)({"x": x})[0], expected, rtol=0, atol=1e-5)
    default = _kit().onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": x.numpy()})
    assert np.abs(default[0] - expected.numpy()).max() > 1e-3  # the control: should this fail, the preset may go
