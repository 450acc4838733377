"""The command line as a person meets it: what it prints, and how it says no."""

import gzip
import json
import math
import re
import shutil
import struct

import pytest
import torch

from edgepep import DataError, datasets
from edgepep.cli import main
from edgepep.epoch import Epoch


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["edgepep", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return call


def refused(result, *words):
    code, _, err = result
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    for word in words:
        assert word in err


def test_train_evaluate_export(run, tmp_path):
    code, out, _ = run("train", "digits-fc", "--epochs", "2", "--out", "one")
    assert code == 0
    assert out.count("epoch ") == 2
    about = json.loads((tmp_path / "one" / "run.json").read_text())
    assert about["recipe"]["name"] == "digits-fc"
    assert about["seed"] == 0
    assert about["versions"]["torch"] == torch.__version__.split("+")[0] or about["versions"]["torch"]
    last = json.loads((tmp_path / "one" / "metrics.jsonl").read_text().splitlines()[-1])
    code, out, _ = run("evaluate", "one")
    assert code == 0
    assert f"{last['test_accuracy']:.2f} %" in out
    assert run("evaluate", "one", "--rule", "pepita")[1] == out
    refused(run("evaluate", "one", "--rule", "dfa"), "--rule dfa", "trained by pepita")
    code, out, _ = run("export", "one", "--format", "onnx")
    assert code == 0
    assert "same class 1000 of 1000" in out
    refused(run("train", "digits-fc", "--epochs", "1", "--out", "one"), "one", "exists already")


def test_bits_of_any_recipe(run, tmp_path):
    code, _, _ = run("train", "digits-fc", "--epochs", "1", "--weight-bits", "4", "--out", "four")
    assert code == 0
    about = json.loads((tmp_path / "four" / "run.json").read_text())["recipe"]["quantized"]
    assert (about["weight_bits"], about["activation_bits"]) == (4, 8)
    assert "same class 1000" in run("export", "four")[1]
    refused(
        run("train", "digits-fc", "--weight-bits", "0"),
        "quantized.weight_bits",
        "greater than or equal to 1",
        "given: 0",
    )
    refused(
        run("train", "digits-fc", "--activation-bits", "1"),
        "quantized.activation_bits",
        "greater than or equal to 2",
        "given: 1",
    )


def test_a_file_that_answers_otherwise_than_the_rule_says_so(run):
    run("train", "digits-fc", "--rule", "forward_forward", "--epochs", "1", "--out", "ff")
    assert "answers in one pass" in run("export", "ff")[1]
    run("train", "digits-fc", "--epochs", "1", "--out", "plain")
    assert "one pass" not in run("export", "plain")[1]


def test_profile_needs_no_data(run, monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEPEP_DATA", str(tmp_path / "nothing"))
    code, out, _ = run("profile", "--rule", "pepita", "--model", "digits-fc")
    assert code == 0
    assert all(word in out for word in ("BP place", "pepita", "mempepita", "feedback F", "optimizer state", "ratio"))
    assert max(map(len, out.splitlines())) <= 80


def test_lists(run):
    assert "mempepita" in run("rules")[1]
    assert "mnist-fc-spiking" in run("models")[1]
    assert "onnx_qcdq" in run("targets")[1]


def test_the_legend_of_rules_and_what_a_narrow_terminal_leaves_out(run, monkeypatch):
    code, out, _ = run("rules")
    legend = out.splitlines()[-4:]
    assert code == 0
    assert "A2: those of two layers" in legend[0]
    assert "maps: classes by width" in " ".join(legend)
    assert max(map(len, legend)) <= 80
    assert "left out" not in out
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    for columns, left in (("80", True), ("160", False)):
        monkeypatch.setenv("COLUMNS", columns)
        shown = re.sub(r"\x1b\[\d*m", "", run("rules")[1])
        assert ("\nleft out here: not local, source; `edgepep rules NAME` shows all.\n" in shown) == left
        assert ("Kolen & Pollack" in " ".join(shown.split())) != left
        assert shown.splitlines()[-4:] == legend
        assert max(map(len, shown.splitlines())) <= int(columns)


def test_unknown_names(run):
    refused(run("train", "digits-fc", "--rule", "pepitta"), "pepitta", "did you mean 'pepita'", "frozen_hidden")
    refused(run("train", "digit-fc"), "digit-fc", "did you mean 'digits-fc'")
    refused(run("train", "digits-fc", "--device", "cudda"), "cudda", "cpu")
    refused(run("train", "digits-fc", "--dataset", "digitz"), "digitz")
    refused(run("train", "digits-fc", "--epochs", "0"), "epochs", "0")
    refused(run("profile", "--rule", "pepitta"), "pepitta")
    refused(run("evaluate", "nowhere"), "nowhere")


def test_unwritable_output(run, tmp_path):
    (tmp_path / "file").write_text("")
    refused(run("train", "digits-fc", "--epochs", "1", "--out", "file/run"), "file/run")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("[trainin]\n", ["trainin", "did you mean 'training'"]),
        ("[training]\nlearning_rte = 0.1\n", ["training.learning_rte", "did you mean 'learning_rate'"]),
        ('[training]\nepochs = "ten"\n', ["training.epochs", "'ten'"]),
        ("[training]\nlearning_rate = -1.0\n", ["training.learning_rate", "greater than 0"]),
        ("[rules.pepitta]\n", ["pepitta", "did you mean 'pepita'"]),
        ("[rules.pepita]\nfeedback_scal = 1.0\n", ["feedback_scal", "feedback_scale"]),
        ('[network]\nlayers = [{synapses = "linear", features = "classes"}]\n', ["network.layers[0]", "flatten"]),
        ('[network]\nlayers = [{synapses = "conv", kernel = 11, features = 4}]\n', ["network.layers[0]", "kernel"]),
        ('[network]\nlayers = [{synapses = "lineal", features = 4}]\n', ["synapses", "lineal"]),
        ('[network]\nlayers = [{synapses = "linear", features = 4, prepare = ["flaten"]}]\n', ["flaten", "flatten"]),
        ("epochs == 3", ["TOML"]),
    ],
)
def test_recipes_with_a_mistake(run, tmp_path, change, words):
    (tmp_path / "mine.toml").write_text('base = "digits-fc"\n' + change)
    refused(run("train", "mine.toml"), "mine", *words)


@pytest.mark.parametrize(
    ("word", "rule", "meant"),
    [
        ("learning_rate=0.05", "pepita", "'training.learning_rate'?"),
        ("learning_rate=0.05", "dfa", "'rules.dfa.training.learning_rate'?"),
        ("strength=0.01", "pepita", "'rules.pepita.strength'?"),
        ("pepita.strength=0.01", "pepita", "'rules.pepita.strength'?"),
        ("neurons=relu", "pepita", "'network.neurons' or 'spiking.neurons'?"),
        ("weight_bits=4", "pepita", "'quantized.weight_bits'? Allowed: dataset, "),
        ("nothing=4", "pepita", "nothing: there is no such key. Allowed: dataset, "),
    ],
)
def test_the_end_of_a_key_is_recognised(run, tmp_path, word, rule, meant):
    own = 'base = "digits-fc"\n[rules.dfa.training]\nlearning_rate = 0.1\n'
    (tmp_path / "mine.toml").write_text(own)
    refused(run("train", "mine.toml", "--rule", rule, "--set", word), meant, "quantized, rule, rules", "spiking")
    refused(run("sweep", "mine.toml", "--set", f"rule={rule}", "--set", word, "--list"), meant)


def test_data_that_are_not_there(run, tmp_path, monkeypatch):
    import urllib.request

    def no_network(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    refused(run("train", "mnist-fc", "--data-dir", str(tmp_path)), "MNIST", str(tmp_path), "--dataset digits")


def test_damaged_idx_file(run, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{name}-ubyte").write_bytes(struct.pack(">IIII", 0x803, 1, 28, 28) + bytes(784))
    refused(run("train", "mnist-fc", "--data-dir", str(tmp_path)), "damaged", "sha256", "train-images-idx3-ubyte")
    for file in raw.iterdir():
        file.unlink()
    with gzip.open(raw / "train-images-idx3-ubyte.gz", "wb") as packed:
        packed.write(bytes(1000))
    archive = raw / "train-images-idx3-ubyte.gz"
    archive.write_bytes(archive.read_bytes()[:15])
    refused(run("train", "mnist-fc", "--data-dir", str(tmp_path)), "cannot unpack", "train-images-idx3-ubyte.gz")


@pytest.mark.parametrize(
    ("inputs", "labels", "words"),
    [
        (torch.full((3, 2), torch.nan), [0, 1, 0], "not finite"),
        (torch.zeros(3, 2), [0, 1, 2], "labels from 0 to 2"),
        (torch.zeros(3, 2), [0, -1, 1], "labels from -1"),
        (torch.zeros(3, 2), [0, 1], "3 inputs but 2 labels"),
        (torch.zeros(3, 3), [0, 1, 1], "shape"),
        (torch.zeros(0, 2), [], "empty"),
    ],
)
def test_data_out_of_range(inputs, labels, words):
    with pytest.raises(DataError, match=words):
        datasets.checked(datasets.Data("mine", inputs, torch.tensor(labels), 2), (2,))


def test_damaged_run(run, tmp_path):
    run("train", "digits-fc", "--epochs", "1", "--out", "good")
    for file, content in (("weights.safetensors", b"\0" * 20), ("run.json", b"{")):
        shutil.copytree("good", f"bad-{file}")
        (tmp_path / f"bad-{file}" / file).write_bytes(content)
        refused(run("evaluate", f"bad-{file}"), file)


def test_a_network_that_no_longer_answers_is_said(run):
    dead = "the network answers the same whatever it is shown (loss log 10 = 2.3026): the learning rate may be too high"
    wild = ("train", "digits-fc", "--set", "training.learning_rate=1000", "--out")
    code, out, _ = run(*wild, "dead", "--epochs", "3")
    assert code == 0
    assert out.splitlines()[-2:] == [f"warning: {dead}.", "kept in dead"]
    assert "warning" not in run(*wild, "early", "--epochs", "1")[1]
    assert "warning" not in run("train", "digits-fc", "--epochs", "2", "--out", "fine")[1]


def test_chance_is_told_from_learning():
    slow = Epoch(2, 2.36, 10.65, 11.0, 1.0)
    assert slow.warning(10, 10).startswith("train 10.65 % is about chance (10 %)")
    assert not slow._replace(epoch=1).warning(10, 10)
    assert not slow._replace(train_accuracy=13.0).warning(10, 10)
    assert not slow._replace(test_accuracy=40.0).warning(10, 10)
    assert slow._replace(test_accuracy=math.nan, held_out_accuracy=9.0).warning(10, 10)
    assert "chance (50 %)" in slow._replace(train_accuracy=51.0, test_accuracy=50.0).warning(10, 2)


def test_divergence_is_said(run, tmp_path):
    (tmp_path / "wild.toml").write_text('base = "digits-fc"\n[training]\nlearning_rate = 1e6\n')
    refused(run("train", "wild.toml", "--epochs", "2"), "diverged")
