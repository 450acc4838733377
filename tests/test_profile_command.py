"""`edgepep profile` as it is typed."""

import csv
import io
import json
import re
import xml.dom.minidom

import pytest
from typer.testing import CliRunner

from edgepep.cli import app
from edgepep.errors import EdgepepError
from edgepep.profiling import devices
from edgepep.profiling.costs import costs
from edgepep.profiling.energy import table
from edgepep.profiling.formats import FIELDS
from edgepep.profiling.subject import subject

SMALL = ("--model", "digits-fc")


def raises():
    raise ValueError("no")


def typed(*arguments):
    outcome = CliRunner().invoke(app, ["profile", *arguments])
    if outcome.exception is not None and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    return outcome.output


def test_one_screen_with_honest_comparators():
    page = typed(*SMALL)
    assert all(len(line) <= 80 for line in page.splitlines())
    assert page.count("BP BP place BP check   frozen   pepita mempepita\n") == 3
    assert "ratios are to BP place" in " ".join(page.split())
    assert "MEMPEPITA repeats" in page


def test_every_rule_one_a_line():
    page = typed(*SMALL, "--rule", "all")
    for rule in ("drtp", "kolen_pollack", "forward_forward", "backprop, checkpointed"):
        assert any(line.startswith(rule) for line in page.splitlines())
    said = " ".join(page.split())
    assert not re.search(r"\bBP\b", page)
    assert '"backprop, held" holds every gradient' in said
    assert '"backprop, checkpointed" runs groups of layers twice' in said
    assert 'ratios are to "backprop"' in said


def test_titles_that_are_cut_are_explained():
    page = typed(*SMALL, "--rule", "feedback_alignment,mempepita")
    assert "frozen       FA mempepita\n" in page
    assert "FA is feedback_alignment." in page
    page = typed(*SMALL, "--rule", "kolen_pollack")
    assert "frozen kolen_pollack\n" in page
    assert "kolen_pollack." not in page
    assert all(len(line) <= 80 for line in page.splitlines())
    assert "rest of " not in typed(*SMALL, "--rule", "dfa").replace("rest of the step", "")
    page = typed(*SMALL, "--rule", "pepita,weight_mirror,dfa", "--per-layer")
    layers = page.partition("MACs of each layer")[2]
    assert "WM" in layers.splitlines()[0]
    said = " ".join(layers.split())
    assert "BP is backprop, held; BP place is backprop; BP check is backprop, checkpointed;" in said
    assert "WM is weight_mirror" in said


def test_layers_energy_and_measured_time():
    page = typed(*SMALL, "--per-layer", "--energy", "horowitz45", "--measure", "--data")
    assert "MACs of each layer" in page
    assert "an estimate (cost table horowitz45)" in page
    assert "measured ms" in page
    assert "forward passes on real data" in page


def test_formats_hold_the_same_figures():
    found = json.loads(typed(*SMALL, "--format", "json"))
    assert found["schema"] == 1
    records = found["records"]
    assert set(records[0]) == set(FIELDS)
    assert {r["tag"] for r in records} == {"counted", "modelled"}
    rows = list(csv.DictReader(io.StringIO(typed(*SMALL, "--format", "csv"))))
    assert len(rows) == len(records)
    wanted = next(r for r in records if r["rule"] == "pepita" and r["quantity"] == "macs" and r["part"] == "total")
    assert f"| pepita | {wanted['value']:,} |" in typed(*SMALL, "--format", "markdown")
    page = typed(*SMALL, "--format", "html")
    assert f"<td>{wanted['value']:,}</td>" in page
    xml.dom.minidom.parseString(page[page.index("<table") : page.index("</table>") + 8])


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_pictures(suffix, tmp_path):
    path = tmp_path / f"costs{suffix}"
    typed(*SMALL, "--plot", str(path))
    head = path.read_bytes()[:8]
    assert head.startswith(b"\x89PNG") if suffix == ".png" else b"<?xml" in head


def test_a_module_of_ones_own():
    page = typed("--model", "tests.test_convert:mobile", "--input", "3x16x16", "--rule", "dfa", "--batch", "4")
    assert "tests.test_convert:mobile" in page
    assert "dfa" in page


def test_fits_or_does_not_and_what_would():
    page = typed("--model", "ds-cnn", "--device", "stm32f746", "--batch", "2")
    assert "mempepita fits stm32f746" in page
    assert "pepita does not fit stm32f746. RAM:" in page
    assert "activities and scratch" in page
    assert "would fit: mempepita with feedback from its seed" in page
    assert "fits this part" in typed(*SMALL, "--ram", "64K", "--flash", "1M")


def test_the_line_that_breaks_is_named():
    memory = costs(subject("digits-fc"), "pepita", batch=1).device
    part = devices.custom(f"{(memory.weights + memory.arena + 100) // 1024}K", None)
    assert "breaks it" in devices.shortage(memory, part)
    assert devices.shortage(memory, devices.custom("1M", "20K")).startswith("flash")
    assert devices.shortage(memory, devices.custom("1M", None)) is None


@pytest.mark.parametrize("name", devices.names())
def test_parts_have_memory_and_a_source(name):
    part = devices.device(name)
    assert 32 * 1024 <= part.ram <= 2**21
    assert part.ram < part.flash <= 2**24
    assert part.source


def test_a_table_of_ones_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[mine]\nsource = "me"\nmac = { fp32 = 2.0 }\nadd = { fp32 = 1.0 }\nbyte = 0.5\n')
    assert table(str(path)).microjoules(1e6, 1e6, 2e6, "fp32") == pytest.approx(4.0)
    with pytest.raises(EdgepepError, match="has no int8"):
        table(str(path)).microjoules(1, 1, 1, "int8")
    path.write_text('[mine]\nsource = "me"\n')
    with pytest.raises(EdgepepError, match="needs source, mac, add and byte: 'mac' is missing"):
        table(str(path))
    path.write_text('[mine]\nsource = "me"\nmac = { fp32 = "a" }\nadd = { fp32 = 1.0 }\nbyte = 0.5\n')
    with pytest.raises(EdgepepError, match="tables of numbers"):
        table(str(path))


def test_accounting():
    page = typed("--model", "mobilenet", "--accounting", "paper")
    assert "30,527,860" in page
    assert "published error kept" in page
    assert "30,020,980" in typed("--model", "mobilenet", "--accounting", "exact")


def test_an_onnx_file(tmp_path):
    import torch

    from edgepep import export, load

    recipe = load("resnet8")
    path = tmp_path / "resnet8.onnx"
    export.save(recipe.build(), path, "onnx_float", torch.rand(4, 3, 32, 32))
    page = typed("--model", str(path))
    assert "12,501,632" in page
    assert "77,706" in page
    (tmp_path / "broken.onnx").write_bytes(b"not onnx")
    with pytest.raises(EdgepepError, match="is not an ONNX file"):
        typed("--model", str(tmp_path / "broken.onnx"))
    with pytest.raises(EdgepepError, match="cannot read"):
        typed("--model", str(tmp_path / "none.onnx"))
    spiking = tmp_path / "spiking.onnx"
    export.save(load("digits-fc").spiking(3).build(), spiking, "onnx_spiking", torch.rand(4, 1, 8, 8))
    with pytest.raises(EdgepepError, match="has a Scan"):
        typed("--model", str(spiking))


def test_a_quantised_onnx_file_counts_its_codes_once(tmp_path):
    import onnx
    from onnx import TensorProto, helper

    from edgepep.profiling.onnx_cost import inference_cost

    codes = helper.make_tensor("codes", TensorProto.INT8, [8, 4], [1] * 32)
    grid = [
        helper.make_tensor("scale", TensorProto.FLOAT, [], [0.1]),
        helper.make_tensor("zero", TensorProto.INT8, [], [0]),
    ]
    nodes = [
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["weight"]),
        helper.make_node("MatMul", ["x", "weight"], ["y"]),
    ]
    sides = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", s]) for n, s in (("x", 8), ("y", 4))]
    graph = helper.make_graph(nodes, "g", [sides[0]], [sides[1]], [codes, *grid])
    path = tmp_path / "qdq.onnx"
    onnx.save(helper.make_model(graph), path)
    cost = inference_cost(path)
    assert (cost.parameters, cost.parameter_bytes, cost.macs, cost.peak_bytes) == (32, 32, {"MatMul": 32}, 48)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model", "nope"), "no recipe called 'nope'"),
        (("--rule", "pepitta"), "did you mean 'pepita'"),
        (("--batch", "0"), "at least 1"),
        (("--device", "stm32f747"), "did you mean 'stm32f746'.*--ram and --flash"),
        (("--ram", "12q"), "such as 256K"),
        (("--precision", "int4"), "fp32, fp16, int8"),
        (("--format", "jsn"), "did you mean 'json'"),
        (("--plot", "x.bmp"), ".png, .svg or .pdf"),
        (("--plot", "no/such/x.png", "--energy", "not looked at"), "cannot write no/such/x.png: there is no folder"),
        (("--energy", "horo"), "no cost table"),
        (("--accounting", "papr"), "paper or exact"),
        (("--accounting", "paper"), "published networks"),
        (("--input", "3x3"), "is a recipe"),
        (("--model", "tests.test_convert:mobile"), "--input 3x32x32"),
        (("--model", "tests.test_convert:mobile", "--input", "3x"), "write the sides"),
        (("--model", "tests.test_convert:mobile", "--input", "4x16x16"), "does not run on the example"),
        (("--model", "tests.test_convert:IMAGE", "--input", "4"), "must be a function"),
        (("--model", "tests.test_convert:Decides", "--input", "6"), "control flow"),
        (("--model", "tests.test_convert:nothing", "--input", "6"), "package.module:Name"),
        (("--model", "x.py"), "package.module:factory"),
        (("--model", "tests.test_profile_command:raises", "--input", "4"), "cannot be called.*ValueError: no"),
        (("--device", "samd21", "--ram", "12K"), "its own memory"),
        (("--device", "samd21", "--format", "json"), "said in text"),
        (("--accounting", "exact", "--format", "json"), "a page of text"),
        (("--model", "some.onnx", "--measure"), "a page of text"),
    ],
)
def test_what_cannot_be_is_told(arguments, said):
    with pytest.raises(EdgepepError, match=said):
        typed(*arguments)
