"""Quantised networks as ONNX: integers of 8 and 4 bits, run in two presets."""

import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgepep import ExportError, Layer, Network, datasets, export, load
from edgepep.onnx_files import Runner
from edgepep.qcdq import finish
from edgepep.synapses import Quantiser, calibrate, linear
from edgepep.training import fit, prepare
from tests.conftest import SHAPES, make_shaped

DIGITS = datasets.load("digits", True).take(slice(0, 1000))[0]
INT4, INT8 = TensorProto.INT4, TensorProto.INT8
FORMS = {
    "8": {"bits": 8},
    "8, per channel": {"bits": 8, "per_channel": True},
    "8, powers of two": {"bits": 8, "power_of_two": True},
    "8, integer weights": {"bits": 8, "weights": "integer"},
    "6": {"bits": 6},
    "4": {"bits": 4},
    "4, per channel": {"bits": 4, "per_channel": True},
    "4, powers of two": {"bits": 4, "power_of_two": True},
    "3": {"bits": 3},
    "2": {"bits": 2},
    "1": {"weight_bits": 1},
    "1, per channel": {"weight_bits": 1, "per_channel": True},
}


def trained(**precision):
    recipe = load("digits-fc").quantized(**precision)
    data = datasets.load("digits", True)
    rule, optimizer, _ = prepare(recipe, "pepita", 0, data, "cpu")
    for _ in fit(rule, data, optimizer, epochs=2, batch_size=32):
        pass
    return rule.network.eval()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Networks and their files, by the form of their numbers."""
    made = {}

    def of(form):
        if form not in made:
            network, path = trained(**FORMS[form]), tmp_path_factory.mktemp("files") / "net.onnx"
            made[form] = network, path, export.save(network, path, "onnx", DIGITS)
        return made[form]

    return of


def weights_of(model):
    """The tensors of weights, in order."""
    read = {node.input[0] for node in model.graph.node if node.op_type in ("DequantizeLinear", "Cast")}
    return [t for t in model.graph.initializer if t.name in read]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_agrees_in_both_presets(form, files):
    network, path, found = files(form)
    assert found.parity.right == found.samples == 1000
    assert found.fast.right >= 995
    kept = {p.key: p.value for p in onnx.load(path).metadata_props}
    for preset in ("parity", "fast"):
        got = getattr(found, preset)
        for field in got._fields:
            assert kept[f"edgepep.{preset}.{field}"] == str(getattr(got, field))
        run = Runner(str(path), preset)
        with torch.no_grad():
            for n in (1, 3, 64):
                (logits,) = run({"x": DIGITS[:n]})
                torch.testing.assert_close(logits, network(DIGITS[:n]), rtol=0, atol=got.max_difference + 1e-4)
    assert (kept["edgepep.target"], kept["edgepep.samples"]) == ("onnx_qcdq", "1000")


@pytest.mark.parametrize("form", [form for form in FORMS if "powers" in form])
def test_powers_of_two_leave_nothing_to_rounding(form, files):
    *_, found = files(form)
    for got in (found.parity, found.fast):
        assert (got.max_difference, got.agreement, got.ties, got.halves) == (0.0, 1000, 0, 0)


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_stored_as_their_codes(form, files):
    network, path, _ = files(form)
    stored = weights_of(onnx.load(path))
    assert {t.data_type for t in stored} == {INT4 if form[0] in "1234" else INT8}
    codes = {tuple(t.dims): numpy_helper.to_array(t).astype(int) for t in stored}
    for layer in network.chain:
        expected = layer.synapses.quant_weight().int(float_datatype=False).numpy()
        assert (codes[expected.shape] == expected).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_convolutions_groups_and_sums(shape, tmp_path):
    inputs = torch.randn(1000, *SHAPES[shape], generator=torch.Generator().manual_seed(0))
    network = make_shaped("quantized", shape)
    found = export.save(network, tmp_path / "net.onnx", "onnx", inputs)
    assert found.parity.right == 1000
    assert found.fast.right >= 995


@pytest.mark.parametrize("opset", [17, 18, 19, 20, 21])
def test_opsets(opset, files, tmp_path):
    network, _, _ = files("4")
    path = tmp_path / "net.onnx"
    export.save(network, path, "onnx_qcdq", DIGITS, opset=opset)
    model = onnx.load(path)
    assert [each.version for each in model.opset_import if each.domain == ""] == [opset]
    assert {t.data_type for t in weights_of(model)} == {INT4 if opset == 21 else INT8}


def test_what_cannot_be_written_is_named(files, tmp_path):
    network, path, _ = files("4")
    with pytest.raises(ExportError, match=r"opset is 16; it must be from 17 to 21"):
        export.save(network, tmp_path / "net.onnx", "onnx", DIGITS, opset=16)
    with pytest.raises(LookupError, match="did you mean 'opset'"):
        export.save(network, tmp_path / "net.onnx", "onnx", DIGITS, opsett=17)
    wide = Network([Layer(linear(64, 10, bias=False, bits=12), None, nn.Flatten())])
    with pytest.raises(ExportError, match=r"layer 0: a code is 2047; codes must fit 8 bits"):
        export.save(wide, tmp_path / "net.onnx", "onnx", DIGITS)
    model = onnx.load(path)
    model.graph.node.add().CopyFrom(helper.make_node("BitwiseNot", ["x"], ["y"]))
    onnx.save(model, tmp_path / "newer.onnx")
    with pytest.raises(ExportError, match="of opset 17"):
        finish(tmp_path / "newer.onnx", 17)
    assert not (tmp_path / "net.onnx").exists()


def test_a_file_that_disagrees_is_refused(files, tmp_path, monkeypatch):
    network, path, _ = files("8")
    target = export._target("onnx_qcdq")
    other = files("2")[0]
    with pytest.raises(ExportError, match=r"does not agree with the network: .* parity: 100.0%"):
        target.check(other, path, DIGITS)
    honest = target._compared

    def worse(*given):
        got = honest(*given)
        return got._replace(agreement=994) if given[-1] == "fast" else got

    monkeypatch.setattr(target, "_compared", worse)
    with pytest.raises(ExportError, match=r"fast: 99.5%"):
        export.save(network, tmp_path / "net.onnx", "onnx", DIGITS)
    assert not list(tmp_path.iterdir())


def test_tied_classes_are_counted_apart():
    target = export._target("onnx_qcdq")
    ours = torch.tensor([[1.0, 2.0, 2.0], [1.0, 2.0, 1.9]])

    class Swapped:
        def __init__(self, path, preset):
            self.inputs = ["x"]

        def __call__(self, given):
            return [torch.tensor([[1.0, 1.999999, 2.000001], [1.0, 1.9, 2.0]])]

    kept, target.Runner = target.Runner, Swapped
    try:
        got = target._compared(torch.nn.Identity(), ours, "", torch.zeros(2, 1), 2, "parity")
    finally:
        target.Runner = kept
    assert (got.agreement, got.ties, got.halves) == (0, 1, 0)


def test_a_value_between_two_codes_is_a_tie():
    target = export._target("onnx_qcdq")
    network = Network([Layer(linear(4, 3, bias=False, bits=4), None, Quantiser(4))])
    calibrate(network, [torch.ones(2, 4)])
    network.eval()
    scale = float(network.chain[0].prepare.quantise.act_quant.scale())
    assert target._halfway(network, scale * torch.tensor([[1.0, 2.5, 3.0, 4.2]]))
    assert not target._halfway(network, scale * torch.tensor([[1.0, 2.51, 3.0, 4.2]]))
    assert not target._halfway(network, scale * torch.tensor([[1.0, 99.5, 3.0, 4.2]]))


def test_sizes_of_the_papers_network(tmp_path):
    sizes, x = {}, torch.rand(20, 1, 28, 28)
    for bits in (None, 8, 4):
        recipe = load("mnist-fc") if bits is None else load("mnist-fc").quantized(bits)
        network, path = recipe.build().eval(), tmp_path / "net.onnx"
        calibrate(network, [x])
        export._target("onnx_float" if bits is None else "onnx_qcdq").save(network, x[:2], path)
        sizes[bits] = path.stat().st_size
    assert sizes[8] <= 0.27 * sizes[None]
    assert sizes[4] <= 0.14 * sizes[None]


@pytest.mark.filterwarnings("ignore::UserWarning")  # trained, they would take longer
def test_brevitas_quantisers_with_signs_and_zero_points(tmp_path):
    from brevitas.nn import QuantConv1d, QuantIdentity, QuantLinear
    from brevitas.quant import Int8WeightPerChannelFloat, ShiftedUint8ActPerTensorFloat

    torch.manual_seed(0)
    x = torch.randn(1000, 4, 12)
    conv = QuantConv1d(4, 4, 3, padding=1, bias=True, weight_quant=Int8WeightPerChannelFloat)
    dense = QuantLinear(48, 5, bias=True, weight_bit_width=5)
    shifted = nn.Sequential(nn.Flatten(), Quantiser(QuantIdentity(act_quant=ShiftedUint8ActPerTensorFloat)))
    network = Network([Layer(conv, nn.Tanh(), Quantiser(QuantIdentity(bit_width=7))), Layer(dense, None, shifted)])
    calibrate(network, [x[:200]])
    found = export.save(network, tmp_path / "net.onnx", "onnx", x)
    assert found.parity.right == 1000
