"""`edgepep export --format c`, and what it writes run on boards."""

import pytest

from benchmarks import device
from edgepep import ExportError, export, load
from edgepep.c99 import boards
from edgepep.c99.host import compiler
from tests.c99_networks import NETWORKS, RULES, exported, made, ruled
from tests.test_cli import refused, run  # noqa: F401

compiled = pytest.mark.skipif(
    compiler() is None, reason="there is no C compiler here (install gcc, or name one in $CC)"
)
emulated = pytest.mark.skipif(boards.missing() is not None, reason=f"{boards.missing()} is not installed here")


@compiled
def test_on_the_command_line(run, tmp_path, monkeypatch):  # noqa: F811
    run("train", "digits-fc", "--epochs", "1", "--out", "one")
    code, out, _ = run("export", "one", "--format", "c")
    assert code == 0
    assert "same class 1000 of 1000" in out
    folder = tmp_path / "one" / "digits-fc-c"
    assert "ep_dense_pair" in (folder / "model.c").read_text()
    code, out, _ = run("export", "one", "--format", "c", "--rule", "backprop", "--option", "precision=int8")
    assert code == 0
    assert "weights rounded to 8 bits" in out
    assert "ep_dense_back" in (folder / "model.c").read_text()
    refused(run("export", "one", "--format", "c", "--rule", "usf"), "usf has no form in C", "mempepita")
    refused(run("export", "one", "--format", "c", "--option", "opset=17"), "no option of c called 'opset'")
    refused(run("export", "one", "--format", "c", "--option", "int8"), "NAME=VALUE")
    refused(run("export", "one", "--rule", "pepita"), "writes no training step")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    refused(run("export", "one", "--format", "c", "--out", "mine"), "no export of edgepep")
    assert (tmp_path / "mine" / "thesis.tex").exists()
    monkeypatch.setenv("CC", "no-such-compiler")
    assert "not compiled: there is no C compiler here" in run("export", "one", "--format", "c", "--rule", "none")[1]
    assert "EP_NO_RULE" in (folder / "model.c").read_text()


def test_a_spiking_network_does_not_suit(tmp_path):
    network = load("digits-fc").spiking(4).build()
    example = load("digits-fc").build().chain[0].synapses.weight.new_zeros(3, 1, 8, 8)
    with pytest.raises(ExportError, match="does not suit"):
        export.save(network, tmp_path / "net", "c", example)


@compiled
def test_the_makefile_and_the_bench_on_this_machine(tmp_path):
    network, x, y = made("mlp")
    planned, host = exported(network, x, y, ruled(network, x, "pepita"), tmp_path / "c")
    found = boards.run(tmp_path / "c", "host", steps=7, rate=0.1)
    assert found["arena"] == found["learn_touched"] == planned.arena
    for i in range(7):
        host.learn(x[i % 6], int(y[i % 6]), 0.1)
    assert found["weights"] == host.checksum()
    assert found["samples"] == 6


def alike(folder, planned, names, steps):
    """Run on this machine and on boards: the same weights, the memory that was predicted."""
    host = boards.run(folder, "host", steps, 0.02)
    for name in names:
        board = boards.run(folder, name, steps, 0.02)
        assert board["weights"] == host["weights"], name
        assert board["refused"] == host["refused"] == 0
        assert board["learn_touched"] == planned.arena, name
        assert board.static == planned.ram, name
        assert 0 < board["stack"] < boards.STACK[name]


@compiled
@emulated
@pytest.mark.parametrize(("kind", "integer"), [("residual", False), ("depthwise", True)])
def test_a_board_makes_the_same_weights(kind, integer, tmp_path):
    network, x, y = made(kind, integer)
    planned, _ = exported(network, x, y, ruled(network, x, "pepita"), tmp_path / "c")
    alike(tmp_path / "c", planned, ["m4"], steps=20)


@pytest.mark.slow
@compiled
@emulated
@pytest.mark.parametrize("integer", [False, True])
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("kind", NETWORKS)
def test_all_boards_make_the_same_weights_in_100_steps(kind, name, integer, tmp_path):
    network, x, y = made(kind, integer)
    planned, _ = exported(network, x, y, ruled(network, x, name), tmp_path / "c")
    alike(tmp_path / "c", planned, ["m3", "m4", "m7", "lm3s"], steps=100)


@compiled
@emulated
def test_what_does_not_fit_a_board_is_said(tmp_path):
    network, x, y = made("mlp", depth=3, width=140)
    exported(network, x, y, ruled(network, x, "pepita"), tmp_path / "c")
    with pytest.raises(ExportError, match="overflowed"):
        boards.run(tmp_path / "c", "lm3s", 1)


@pytest.mark.slow
@compiled
def test_in_int8_a_device_learns_more_than_its_readout():
    found = device.accuracy(seeds=(0,))["percent"]
    assert found["pepita"][0] > max(90, found["last_layer"][0] + 3), found
    assert found["local_heads"][0] > max(95, found["pepita"][0]), found


@pytest.mark.slow
@compiled
@emulated
def test_an_epoch_of_digits_in_int8_fits_64_kb():
    found = device.epoch()
    assert found["pepita"]["weights_as_on_host"]
    assert found["pepita"]["static_bytes"] + 1024 < 64 * 1024 < found["ram_bytes_fp32"]
    assert found["pepita"]["test_right"] > 0.9 * found["pepita"]["test_samples"]
