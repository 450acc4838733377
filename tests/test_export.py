"""Exports of all three kinds of network, run in onnxruntime."""

import onnx
import pytest
import torch

from edgepep import ExportError, datasets, export, load
from edgepep.errors import UnknownName
from edgepep.synapses import calibrate
from edgepep.training import fit, prepare

INPUTS = torch.rand(1000, 1, 8, 8)


def trained(kind):
    recipe = load("digits-fc")
    recipe = {"plain": recipe, "quantized": recipe.quantized(8), "spiking": recipe.spiking(10)}[kind]
    data = datasets.load("digits", True)
    rule, optimizer, _ = prepare(recipe, "pepita", 0, data, "cpu")
    for _ in fit(rule, data, optimizer, epochs=2, batch_size=32):
        pass
    return rule.network


@pytest.mark.parametrize(
    ("kind", "operator"), [("plain", "Gemm"), ("quantized", "DequantizeLinear"), ("spiking", "Scan")]
)
def test_files_agree_with_torch_at_every_batch_size(kind, operator, tmp_path):
    network, path = trained(kind), tmp_path / "network.onnx"
    parity = export.save(network, path, "onnx", INPUTS)
    assert parity.samples == 1000
    assert parity.agreement >= 999
    model = onnx.load(path)
    kinds = {node.op_type for node in model.graph.node}
    assert operator in kinds or (kind == "plain" and "MatMul" in kinds)
    kept = {p.key: p.value for p in model.metadata_props}
    assert kept["edgepep.parity.agreement" if kind == "quantized" else "edgepep.agreement"] == str(parity.agreement)
    run = export.session(path)
    with torch.no_grad():
        for n in (1, 3, 64):
            assert torch.equal(run(INPUTS[:n]).argmax(1), network.eval()(INPUTS[:n]).argmax(1))
    if kind == "quantized":
        types = {t.data_type for t in model.graph.initializer if len(t.dims) == 2}
        assert types == {onnx.TensorProto.INT8}


def test_disagreement_is_an_error_and_leaves_no_file(tmp_path, monkeypatch):
    network = load("digits-fc").build()
    honest = export.compare

    def off(network, path, inputs):
        with torch.no_grad():
            network.chain[-1].synapses.weight.mul_(-1)
        return honest(network, path, inputs)

    monkeypatch.setattr(export, "compare", off)
    with pytest.raises(ExportError, match="does not agree"):
        export.save(network, tmp_path / "network.onnx", "onnx", INPUTS)
    assert not list(tmp_path.iterdir())


def test_a_target_that_does_not_suit_is_refused(tmp_path):
    with pytest.raises(ExportError, match="does not suit"):
        export.save(load("digits-fc").build(), tmp_path / "n.onnx", "onnx_spiking", INPUTS)
    with pytest.raises(LookupError, match="did you mean 'onnx_float'"):
        export.save(load("digits-fc").build(), tmp_path / "n.onnx", "onnx_flot", INPUTS)


def test_a_quantised_networks_scales_stay_as_calibrated():
    network = load("digits-fc").quantized(8).build()
    calibrate(network, [INPUTS[:100]])
    network.train()
    x = INPUTS[:5]
    with torch.no_grad():
        first = network(x)
        network(100 * x)
        assert torch.equal(network(x), first)


@pytest.mark.parametrize(
    ("target", "option", "said"),
    [
        ("onnx_float", "opset=20", "onnx_float has no options, so none called 'opset'.*that name is of: onnx_qcdq"),
        ("onnx_float", "colour=red", r"onnx_float has no options, so none called 'colour'\.$"),
        ("c", "opset=20", "no option of c called 'opset'.*rule, precision, rates.*that name is of: onnx_qcdq"),
        ("onnx_qcdq", "opse=20", r"did you mean 'opset'\? There are: opset\.$"),
    ],
)
def test_options_that_a_target_does_not_have(target, option, said):
    with pytest.raises(UnknownName, match=said):
        export.read_options(target, [option])


def test_options_of_a_target_that_has_none(tmp_path):
    with pytest.raises(UnknownName, match="onnx_float has no options"):
        export.save(load("digits-fc").build(), tmp_path / "net.onnx", "onnx_float", INPUTS, opset=20)
