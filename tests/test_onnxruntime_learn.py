"""The onnxruntime kit learns with numpy and onnxruntime alone, and loses nothing to what does not fit."""

import importlib
import json
import subprocess
import sys

import numpy as np
import onnx
import pytest

from edgepep import datasets, learning_files, load
from edgepep.folders import EXPORT
from edgepep.learning_graph import Settings
from tests.test_onnxruntime_kit import BARE

KIT = EXPORT / "onnxruntime"
X, Y = (part.numpy() for part in datasets.load("digits", True).take(slice(0, 1000)))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What `edgepep export --training` writes of an untrained network."""
    folder, recipe = tmp_path_factory.mktemp("written"), load("digits-fc")
    rule = recipe.make_rule(recipe.build(0), "pepita", 0)
    learning_files.save(rule, Settings(0.9), 0.05, folder, datasets.load("digits", True).take(slice(0, 100)))
    return folder


@pytest.fixture
def folder(written, tmp_path):
    """A copy that a test may damage, with samples beside it."""
    for path in written.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    return tmp_path


@pytest.fixture
def kit(monkeypatch):
    """The kit's modules, as a script in its folder imports them."""
    monkeypatch.syspath_prepend(str(KIT))
    for name in ("infer", "sessions", "state", "learn"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    learn = importlib.import_module("learn")
    yield learn
    for name in ("infer", "sessions", "state", "learn"):
        sys.modules.pop(name, None)


def script(folder, *options):
    command = [sys.executable, "-c", BARE, str(KIT / "learn.py"), str(folder), str(folder / "x.npy")]
    run = subprocess.run([*command, str(folder / "y.npy"), *options], capture_output=True, text=True, cwd=KIT)
    return run.returncode, run.stdout, run.stderr


def test_a_script_learns_and_keeps_what_it_learned(folder):
    code, out, err = script(folder, "--epochs", "4")
    assert code == 0, err
    accuracies = [float(line.split("accuracy ")[1].split()[0]) for line in out.splitlines()]
    assert accuracies[0] < 0.3
    assert accuracies[-1] > 0.85
    assert f"accuracy {accuracies[-1]:.4f} of 1000" in script(folder, "--epochs", "0")[1]


def test_it_learns_as_torch_does(folder, kit):
    """The kit's steps end where InPlaceSGD's end."""
    import torch

    from edgepep import InPlaceSGD

    recipe = load("digits-fc")
    rule = recipe.make_rule(recipe.build(0), "pepita", 0)
    InPlaceSGD(rule.network, 0.05, 0.9)
    learner = kit.Learner(folder)
    for i in range(10):
        x, y = X[16 * i : 16 * i + 16], Y[16 * i : 16 * i + 16]
        loss = float(rule(torch.from_numpy(x), torch.from_numpy(y)).loss)
        assert learner.learn(x, y) == pytest.approx(loss, rel=1e-4)
    for name, weight in rule.named_parameters():
        np.testing.assert_allclose(learner.state[name], weight.detach().numpy(), rtol=1e-4, atol=1e-6)


def test_saved_and_restored(folder, kit):
    learner = kit.Learner(folder)
    learner.learn(X[:32], Y[:32])
    learner.save()
    again = kit.Learner(folder)
    assert all(np.array_equal(again.state[name], value) for name, value in learner.state.items())
    assert again.learn(X[32:64], Y[32:64]) == learner.learn(X[32:64], Y[32:64])


def test_a_failed_save_leaves_the_old_state(folder, kit, monkeypatch):
    learner, before = kit.Learner(folder), (folder / "state.safetensors").read_bytes()
    learner.learn(X[:32], Y[:32])

    def full(_):
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        learner.save()
    assert (folder / "state.safetensors").read_bytes() == before


@pytest.mark.parametrize("at", ["length", "header", "data", "short", "empty"])
def test_damaged_states_are_refused(folder, at):
    path = folder / "state.safetensors"
    content = bytearray(path.read_bytes())
    end = 8 + int.from_bytes(content[:8], "little")
    if at in ("short", "empty"):
        content = content[: len(content) // 2 if at == "short" else 0]
    else:
        content[{"length": 3, "header": 12, "data": end + 5}[at]] ^= 64
    path.write_bytes(content)
    code, _, err = script(folder)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert "state is damaged" in err
    assert path.read_bytes() == content


def test_what_is_newer_is_refused(folder, kit):
    path = folder / "state.safetensors"
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"]["edgepep.version"] = "2"
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])
    with pytest.raises(ValueError, match="state is of version 2; this reads 1"):
        kit.Learner(folder)
    path.write_bytes(content)
    model = onnx.load(folder / "training_step.onnx")
    next(p for p in model.metadata_props if p.key == "edgepep.version").value = "2"
    onnx.save(model, folder / "training_step.onnx")
    with pytest.raises(ValueError, match=r"training_step\.onnx is of version 2; this reads 1"):
        kit.Learner(folder)


def test_what_does_not_fit_changes_nothing(folder, kit):
    learner = kit.Learner(folder)
    before = {name: value.copy() for name, value in learner.state.items()}
    for x, y, words in (
        (X[:4, :, :7], Y[:4], r"inputs are float32 \[4, 1, 7, 8\]"),
        (X[:4].astype(np.float64), Y[:4], "inputs are float64"),
        (X[:0], Y[:0], "inputs are float32"),
        (X[:4], Y[:3], "labels must be 4 numbers from 0 to 9"),
        (X[:4], Y[:4] + 10, "labels must be 4 numbers from 0 to 9"),
        (X[:4] * np.nan, Y[:4], "no number"),
    ):
        with pytest.raises(ValueError, match=words):
            learner.learn(x, y)
    with pytest.raises(ValueError, match="lower the rate"):
        learner.learn(X[:16], Y[:16], np.inf)
    assert all(np.array_equal(learner.state[name], value) for name, value in before.items())


def test_a_state_of_another_network_is_refused(folder, kit):
    state = kit.unpack((folder / "state.safetensors").read_bytes())
    state["network.layers.0.synapses.weight"] = np.zeros((3, 64), np.float32)
    kit.save(state, folder / "state.safetensors")
    with pytest.raises(ValueError, match=r"network.layers.0.synapses.weight must be \[32, 64\]"):
        kit.Learner(folder)


def test_the_kit_stays_small():
    for name in ("infer.py", "learn.py", "sessions.py", "state.py"):
        lines = (KIT / name).read_text().splitlines()
        assert len(lines) < 80
        imported = {line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))}
        assert imported - set(sys.stdlib_module_names) <= {"numpy", "onnxruntime", "infer", "sessions", "state"}
