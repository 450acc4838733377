"""What a device learned comes back into PyTorch, or is refused and changes nothing."""

import copy
import hashlib
import json

import pytest
import torch

from edgepep import EdgepepError, InPlaceSGD, StateError, datasets, learning_files, load
from edgepep.learning_graph import Settings, TrainingStep
from edgepep.training import prepare

DIGITS = datasets.load("digits", True)


@pytest.fixture(scope="module", params=["float", "quantized", "codes"])
def taught(request, tmp_path_factory):
    """A rule, the file of what some steps made of it, and the tensors in it."""
    recipe = load("digits-fc")
    if request.param != "float":
        recipe = recipe.quantized(8, weights="integer" if request.param == "codes" else "shadow")
    rule, _, _ = prepare(recipe, "pepita", 0, DIGITS, "cpu")
    x, target = DIGITS.take(slice(0, 32))
    step = TrainingStep(rule, Settings(momentum=0.9), (x, target))
    state = dict(step.state)
    with torch.no_grad():
        for _ in range(3):
            state = dict(zip(state, step(x, target, torch.tensor(0.1), *state.values())[2:], strict=True))
    path = tmp_path_factory.mktemp("state") / "state.safetensors"
    path.write_bytes(learning_files.state_bytes(state))
    return rule, path, state


def test_it_comes_back_bit_for_bit(taught):
    rule, path, state = taught
    fresh = copy.deepcopy(rule)
    learning_files.load_state(fresh, path)
    held = dict(fresh.named_parameters()) | dict(fresh.named_buffers())
    own = [name for name in state if not name.startswith("velocity")]
    assert own
    assert all(torch.equal(held[name], state[name]) for name in own)
    assert any(not torch.equal(held[name], (rule.state_dict())[name]) for name in own)
    x, target = DIGITS.take(slice(0, 8))
    InPlaceSGD(fresh.network, 0.1)
    assert fresh(x, target).loss < rule(x, target).loss  # it goes on learning


def sealed(header, data):
    """A file with the checksum of what is in it, be that what it may."""
    header["__metadata__"]["sha256"] = "0" * 64
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + data
    return content.replace(b"0" * 64, hashlib.sha256(content).hexdigest().encode(), 1)


def broken(content, name):
    """A file with one thing wrong, and what is said of it."""
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    weight = next(n for n in header if n.startswith("network.") and n.endswith(("weight", "codes")))
    if name == "bit":
        return content[:-1] + bytes([content[-1] ^ 1]), "damaged: its SHA-256"
    if name == "header":
        return content.replace(b"layers.0", b"layers.9"), "damaged: its SHA-256"
    if name == "cut":
        return content[:-7], "damaged"
    if name == "empty":
        return b"", "damaged"
    if name == "text":
        return b"not a state at all, but longer than a header", "damaged"
    if name == "newer":
        header["__metadata__"]["edgepep.version"] = "2"
        said = "of version 2; this edgepep reads 1"
    elif name == "renamed":
        header["network.layers.7.weight"] = header.pop(weight)
        said = "network.layers.7.weight is not in Pepita's network"
    elif name == "shape":
        header[weight]["shape"] = header[weight]["shape"][::-1]
        said = f"{weight} is"
    return sealed(header, data), said


@pytest.mark.parametrize("how", ["bit", "header", "cut", "empty", "text", "newer", "renamed", "shape"])
def test_what_is_wrong_is_refused_and_changes_nothing(taught, how, tmp_path):
    rule, path, _ = taught
    content, said = broken(path.read_bytes(), how)
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(content)
    fresh = copy.deepcopy(rule)
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    with pytest.raises(StateError) as raised:
        learning_files.load_state(fresh, bad)
    assert isinstance(raised.value, EdgepepError)
    assert said in str(raised.value)
    assert all(torch.equal(value, before[name]) for name, value in fresh.state_dict().items())


def test_a_number_that_is_not_finite_is_refused(taught, tmp_path):
    rule, _, state = taught
    floats = [name for name, value in state.items() if value.is_floating_point() and not name.startswith("velocity")]
    if not floats:
        pytest.skip("codes are always finite")
    bad = state | {floats[0]: torch.full_like(state[floats[0]], float("nan"))}
    (tmp_path / "bad").write_bytes(learning_files.state_bytes(bad))
    with pytest.raises(StateError, match="not finite"):
        learning_files.load_state(copy.deepcopy(rule), tmp_path / "bad")


def test_a_weight_that_is_missing_is_named(taught, tmp_path):
    rule, _, state = taught
    weight = next(name for name in state if name.startswith("network.") and name.endswith(("weight", "codes")))
    rest = {name: value for name, value in state.items() if name != weight}
    (tmp_path / "fewer").write_bytes(learning_files.state_bytes(rest))
    with pytest.raises(StateError, match=f"{weight} learns, but is not in the file"):
        learning_files.load_state(copy.deepcopy(rule), tmp_path / "fewer")


def test_a_file_that_is_not_there(taught, tmp_path):
    with pytest.raises(StateError, match="No such file"):
        learning_files.load_state(taught[0], tmp_path / "none")
