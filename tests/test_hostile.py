"""Files made to harm: nothing in them is imported or run, nothing outside the run directory is opened."""

import contextlib
import hashlib
import json
import os
import pickle
import shutil
import struct
import sys
import tracemalloc

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgepep import DataError, EdgepepError, RecipeError, RunError, checkpoint, datasets, load, models, sealed, states
from edgepep.datasets import _files
from edgepep.onnx_files import Runner
from edgepep.profiling.onnx_cost import inference_cost
from tests import fuzzing
from tests.test_resume import go

WATCHED: list = []
FORBIDDEN = ("import", "subprocess", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pickle", "socket", "ctypes")


def watch(event, arguments):
    if WATCHED:
        if event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
            WATCHED.append((event, os.fsdecode(arguments[0])))
        elif event.startswith(FORBIDDEN):
            WATCHED.append((event, str(arguments[0]) if arguments else ""))


sys.addaudithook(watch)


@contextlib.contextmanager
def nothing_outside(folder):
    """No import, no process, and no file opened but in one folder."""
    WATCHED.append(("begin", ""))
    try:
        yield
    finally:
        seen = WATCHED[1:]
        WATCHED.clear()
    home = os.path.realpath(folder)
    for event, what in seen:
        inside = event == "open" and (os.path.realpath(what) + "/").startswith(home + "/")
        assert inside, f"{event}: {what}"


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/edgepep-was-here",)


def sealed_state(text: bytes, tensors: bytes = b"\2\0\0\0\0\0\0\0{}") -> bytes:
    """A state with the right checksum."""
    lengths = struct.pack("<QQ", len(text), len(tensors))
    return states.MAGIC + hashlib.sha256(lengths + text + tensors).digest() + lengths + text + tensors


def saved_by_torch() -> bytes:
    import io

    file = io.BytesIO()
    torch.save({"evil": Evil()}, file)
    return file.getvalue()


def packed_by_numpy() -> bytes:
    import io

    file = io.BytesIO()
    np.savez(file, evil=np.array([Evil()], dtype=object))
    return file.getvalue()


HEADER = json.dumps({"__metadata__": {"class": "os.system", "_target_": "subprocess.Popen"}}).encode()
BYTES = {
    "pickle": pickle.dumps(Evil()),
    "torch": saved_by_torch(),
    "npz": packed_by_numpy(),
    "giant header": struct.pack("<Q", 1 << 40) + b"{}",
    "header of spaces": struct.pack("<Q", 90_000_000) + b" " * 90_000_000,
    "deep header": struct.pack("<Q", 200_000) + b"[" * 200_000,
    "class names": struct.pack("<Q", len(HEADER)) + HEADER,
    "sealed class": sealed_state(b'{"os.system":["touch /tmp/edgepep-was-here"]}'),
    "sealed instantiator": sealed_state(b'{"dict":[["_instantiator","os.system"],["loop","subprocess.Popen"]]}'),
    "sealed reduce": sealed_state(b'{"dict":[["__reduce__",{"tuple":["os.system",["ls"]]}]]}'),
    "sealed deep": sealed_state(b'{"tuple":[' * 50_000 + b"]}" * 50_000),
    "sealed pickle": sealed_state(b"null", pickle.dumps(Evil())),
    "sealed giant tensor": sealed_state(
        b"null", struct.pack("<Q", 71) + b'{"a":{"dtype":"F32","shape":[99999999999],"data_offsets":[0,399999]}}  '
    ),
    "lengths that lie": states.MAGIC + bytes(32) + struct.pack("<QQ", 1 << 62, 1 << 62),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    assert go(folder / "run")
    checkpoint.read(folder / "run")  # whatever an honest run imports is imported now
    return folder / "run"


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopped")
    assert not go(folder / "run", 10)
    shutil.copytree(folder / "run", folder / "again", ignore=shutil.ignore_patterns(".lock"))
    assert not go(folder / "again", 10)
    return folder / "run"


@pytest.mark.parametrize("what", BYTES)
def test_files_made_to_harm(what, finished, stopped, tmp_path):
    shutil.copytree(finished, tmp_path / "weights")
    (tmp_path / "weights" / "weights.safetensors").write_bytes(BYTES[what])
    with nothing_outside(tmp_path), pytest.raises(RunError, match=r"weights\.safetensors"):
        checkpoint.read(tmp_path / "weights")
    shutil.copytree(stopped, tmp_path / "state", ignore=shutil.ignore_patterns(".lock"))
    for path in states.found(tmp_path / "state"):
        path.write_bytes(BYTES[what])
    for path in states.found(tmp_path / "state"):
        with nothing_outside(tmp_path), contextlib.suppress(RunError):
            assert type(states.read(path, 1 << 27)) is dict  # words, and words they stay
    with pytest.raises(RunError, match=r"no state in .* can be used"):
        go(tmp_path / "state")
    assert not os.path.exists("/tmp/edgepep-was-here")


@pytest.mark.parametrize(
    "change",
    [
        {"rule": "os:system"},
        {"rule": "antigravity:fly"},
        {"rule": "../../evil"},
        {"rule": "_alignment"},
        {"rule": "pepita\0"},
        {"rule": ["pepita"]},
        {"seed": "0x"},
        {"seed": 10**400},
        {"recipe": {}},
        {"recipe": "digits-fc"},
        {"recipe": {"dataset": "../../../etc/passwd"}},
        {"recipe": {"dataset": "os:system"}},
        {"recipe": {"rule": "os:system"}},
        {"recipe": {"head": {"rule": "this:s", "layers": 1}}},
        {"recipe": {"rules": {"os:system:s": {}}}},
        {"recipe": {"rules": {"../os:system": {}}}},
        {"recipe": {"rules": {"pepita": {"storage": "os:system"}}}},
        {"recipe": {"rules": {"pepita": {"__class__": "os.system"}}}},
        {"recipe": {"rules": {"pepita": {"network": {"neurons": "os:system"}}}}},
    ],
)
def test_a_run_json_made_to_harm(change, finished, tmp_path):
    """With the right checksum: whoever writes a file can compute one."""
    shutil.copytree(finished, tmp_path / "run")
    about = checkpoint.read_about(tmp_path / "run")
    if isinstance(change.get("recipe"), dict) and change["recipe"]:
        change = {"recipe": about["recipe"] | change["recipe"]}
    checkpoint._write_about(tmp_path / "run", about | change)
    with nothing_outside(tmp_path), pytest.raises(EdgepepError):
        checkpoint.read(tmp_path / "run")


def test_a_rule_of_ones_own_is_named_by_oneself(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("from edgepep.rules.dfa import Dfa\nclass Mine(Dfa):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    from edgepep.training import train

    list(train(load("digits-fc"), rule="mine:Mine", epochs=1, out=tmp_path / "run"))
    with pytest.raises(RunError, match=r"mine:Mine.*not imported because a file says so.*--rule mine:Mine"):
        checkpoint.read(tmp_path / "run")
    assert checkpoint.read(tmp_path / "run", "mine:Mine").rule == "mine:Mine"


def test_options_of_a_rule_of_ones_own_are_words_until_it_is_asked_for(finished, tmp_path):
    """A table for code in a run's file, or in a recipe, is read and imports nothing."""
    shutil.copytree(finished, tmp_path / "run")
    about = checkpoint.read_about(tmp_path / "run")
    rules = {"antigravity:fly": {"training": {"epochs": 3}, "__class__": "os.system"}}
    checkpoint._write_about(tmp_path / "run", about | {"recipe": about["recipe"] | {"rules": rules}})
    with nothing_outside(tmp_path):
        assert checkpoint.read(tmp_path / "run").recipe.settings("antigravity:fly").epochs == 3
    text = 'base = "digits-fc"\n[rules."antigravity:fly"]\ngain = 1.0\n'
    (tmp_path / "mine.toml").write_text(text)
    recipe = models.load(tmp_path / "mine.toml")
    recipe.make_rule(recipe.build())
    assert "antigravity" not in sys.modules
    for names_it in ('rule = "antigravity:fly"\n', 'head = { rule = "antigravity:fly" }\n'):
        (tmp_path / "mine.toml").write_text(names_it + text)
        with pytest.raises(RecipeError, match=r"antigravity:fly.*not imported because a file says so.*(--rule|--head)"):
            models.load(tmp_path / "mine.toml")
    (tmp_path / "mine.toml").write_text('base = "digits-fc"\n[rules."antigravity:fly".training]\nepochs = "many"\n')
    with pytest.raises(RecipeError, match=r"rules\.antigravity:fly\.training\.epochs"):
        models.load(tmp_path / "mine.toml")
    assert "antigravity" not in sys.modules


def test_a_set_of_runs_names_no_rule_of_its_own(tmp_path):
    from edgepep.reproduction import sets

    cell = '[[cells]]\nrecipe = "digits-fc"\nrules = ["pepita"]\nchanges = { head = { rule = "antigravity:fly" } }\n'
    (tmp_path / "evil.toml").write_text(f'title = "a"\ntext = "b"\nsource = "c"\n{cell}')
    with pytest.raises(RecipeError, match=r"evil\.toml.*antigravity:fly.*not imported because a file says so"):
        sets.load(tmp_path / "evil.toml")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_links_and_sparse_files(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    weights = tmp_path / "run" / "weights.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    os.mkfifo(weights)
    with pytest.raises(RunError, match="not a plain file"):  # and it does not wait for a writer
        checkpoint.read(tmp_path / "run")
    weights.unlink()
    (tmp_path / "outside").write_bytes(content)
    weights.symlink_to(tmp_path / "outside")
    with pytest.raises(RunError, match="it is a link"):
        checkpoint.read(tmp_path / "run")
    weights.unlink()
    with weights.open("wb") as file:
        file.truncate(1 << 40)
    tracemalloc.start()
    with pytest.raises(RunError, match="at most"):
        checkpoint.read(tmp_path / "run")
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('base = "../../etc/passwd"', "must be the name of a recipe"),
        ('base = "/etc/passwd"', "must be the name of a recipe"),
        ("x = " + "[" * 5000, "not TOML"),
        ("x = " + "9" * 5000, "not TOML"),
        ("\xff\xfe", "no such key|not TOML"),
        ("#" * 300_000, "more than"),
        (
            'base = "digits-fc"\n[network]\nlayers = [{synapses="linear", features=2000000000, prepare=["flatten"]}]',
            "weights",
        ),
        ('base = "digits-fc"\n[network]\nlayers = [{synapses="conv", features=8, padding=1000000}]', "values a sample"),
        ('base = "digits-fc"\n[network]\nlayers = [{synapses="conv", features=9999999, kernel=1}]', "values|weights"),
        ('base = "digits-fc"\n[spiking]\nsteps = 2000000000', "steps"),
        ('base = "digits-fc"\n[rules.pepita]\nfeedback_scale = "much"', "feedback_scale|rules.pepita"),
    ],
)
def test_recipes_made_to_harm(text, words, tmp_path):
    (tmp_path / "evil.toml").write_text(text, encoding="utf-8")

    def make():
        recipe = models.load(tmp_path / "evil.toml")
        recipe.make_rule(recipe.build())

    with pytest.raises(RecipeError, match=words):
        make()


def test_idx_files_made_to_harm(tmp_path):
    for content in (b"", b"\0\0\x08\3", struct.pack(">IIII", 0x803, 2**32 - 1, 2**32 - 1, 2**32 - 1) + b"\0" * 99):
        with pytest.raises(DataError, match="IDX"):
            _files.idx(content)
    with pytest.raises(DataError, match=r"names (posix|nt)\.system"):
        _files.batch(pickle.dumps({"data": Evil()}, 2))
    bomb = tmp_path / "bomb.gz"
    import gzip

    with gzip.open(bomb, "wb", compresslevel=1) as file:
        for _ in range(300):
            file.write(bytes(1 << 20))
    with pytest.raises(DataError, match="damaged"):
        _files.verified(tmp_path / "bomb", "0" * 64)
    assert not (tmp_path / "bomb").exists()


def test_the_published_cifar_is_read_by_the_closed_table():
    """Only arrays may be made of a batch; it is read only with its published SHA-256 in any case."""
    table = _files.batch(fuzzing.CIFAR)
    assert table["data"].shape == (2, 3072)
    assert table["labels"] == [1, 2]
    folder = datasets.data_folder() / "cifar-10-batches-py"
    if not folder.is_dir():
        pytest.skip(f"CIFAR-10 is not in {folder}")
    assert datasets.load("cifar10", False).inputs.shape == (10_000, 3, 32, 32)


@pytest.mark.parametrize("where", ["data.bin", "../data.bin", "/etc/passwd", "*/_ORT_MEM_ADDR_/*"])
@pytest.mark.parametrize("in_node", [False, True])
def test_an_onnx_file_cannot_reach_other_files(where, in_node, tmp_path, monkeypatch):
    for folder in (tmp_path, tmp_path / "in"):
        folder.mkdir(exist_ok=True)
        (folder / "data.bin").write_bytes(bytes(16))
    monkeypatch.chdir(tmp_path / "in")
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[2, 2], data_location=onnx.TensorProto.EXTERNAL)
    for key, value in (("location", where), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    nodes = [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])]
    if in_node:
        nodes.insert(0, onnx.helper.make_node("Constant", [], ["w"], value=tensor))
    ends = [onnx.helper.make_tensor_value_info(name, 1, ["n", 2]) for name in "xy"]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], [] if in_node else [tensor])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "in" / "net.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(EdgepepError, match="cannot load"):
        Runner(str(path))
    before = set(tmp_path.rglob("*"))
    inference_cost(path)
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", fuzzing.READERS)
def test_readers_refuse_with_typed_errors_only(name):
    """A few inputs each; docs/reliability.md has the long campaigns."""
    if name == "events":
        pytest.importorskip("tonic")
    seen = [0, 0, 0.0]
    fuzzing.WARM.get(name, lambda: None)()

    @settings(max_examples=80, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.randoms(use_true_random=False))
    def try_it(chance):
        fuzzing.give(name, chance, seen)

    try_it()
    assert seen[0] >= 50
    assert seen[1] < seen[0]


def test_sealed_weights_are_read_by_anybody(tmp_path):
    """It is an ordinary safetensors file."""
    from safetensors.torch import load as read

    tensors = {"a": torch.arange(5.0), "b": torch.zeros(0, 3)}
    content = sealed.pack(tensors)
    assert all(torch.equal(value, tensors[key]) for key, value in read(content).items())
    assert all(torch.equal(value, tensors[key]) for key, value in sealed.unpack(content).items())
