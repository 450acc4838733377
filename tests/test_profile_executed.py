"""`edgepep profile --executed`: what exports did on boards, and that the predictions were right."""

import json

import pytest

from edgepep.errors import EdgepepError
from edgepep.folders import DEVICE
from edgepep.profiling import executed
from edgepep.profiling.devices import custom
from tests.test_profile_command import typed


def test_what_is_kept_was_exact_and_the_same_everywhere():
    kept = json.loads(DEVICE.read_text(encoding="utf-8"))
    assert len(kept["runs"]) >= 40
    for run in kept["runs"]:
        assert run["refused"] == 0
        for board in run["boards"].values():
            assert board["arena_touched"] == run["arena_bytes"]
            assert board["static_bytes"] == run["ram_bytes"]
            assert 0 < board["stack_bytes"] < board["stack_reserved"]
            assert board["weights_as_on_host"]
    epoch = kept["epoch"]["pepita"]
    assert epoch["weights_as_on_host"]
    assert epoch["static_bytes"] == epoch["ram_bytes"]
    assert epoch["static_bytes"] + epoch["stack_reserved"] < 64 * 1024 < kept["epoch"]["ram_bytes_fp32"]


def test_the_page():
    page = typed("--executed", "--model", "resnet8", "--device", "stm32f746")
    assert all(len(line) <= 80 for line in page.splitlines())
    assert "mempepita   fp32" in page
    assert "mlp-784-64-10" not in page
    assert "  no" in page
    assert sum(line.endswith("  fits") for line in page.splitlines()) == 3
    with pytest.raises(EdgepepError, match="--executed gives a page of text"):
        typed("--executed", "--format", "json")
    everything = typed("--executed", "--model", "mnist-fc")
    assert "mnist-fc was not run" in everything
    assert "mlp-784-64-10, 100 steps" in everything


def test_a_model_that_is_not_there_is_no_page():
    with pytest.raises(EdgepepError, match=r"no network called 'ds-cnnx'; did you mean 'ds-cnn'\?.*autoencoder"):
        typed("--executed", "--model", "ds-cnnx")
    with pytest.raises(EdgepepError, match="did you mean 'mlp-784-64-10'"):
        typed("--executed", "--model", "mlp-784-64")
    assert "tests.own:net was not run" in typed("--executed", "--model", "tests.own:net")


def test_a_board_that_disagrees_is_shown(tmp_path):
    kept = json.loads(DEVICE.read_text(encoding="utf-8"))
    kept["runs"] = kept["runs"][:1]
    kept["runs"][0]["boards"]["m3"]["weights_as_on_host"] = False
    kept["runs"][0]["boards"]["m4"]["arena_touched"] -= 4
    file = tmp_path / "device.json"
    file.write_text(json.dumps(kept))
    page = executed.page("digits-fc", custom("8K", None), file)
    assert " NO" in page
    assert "Exact in 0 of\n1 runs" in page or "Exact in 0 of 1 runs" in page
    with pytest.raises(EdgepepError, match="nothing was run"):
        executed.page("digits-fc", None, tmp_path / "none.json")
