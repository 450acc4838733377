"""Weights as a blob: refused when they are damaged, newer or another network's, and nothing is changed then."""

import ctypes
import random
import struct
import zlib

import pytest
import torch

from edgepep import ExportError
from edgepep.c99 import read, write
from edgepep.c99.host import compiler
from tests.c99_networks import exported, made, ruled, trained

compiled = pytest.mark.skipif(
    compiler() is None, reason="there is no C compiler here (install gcc, or name one in $CC)"
)


def summed(blob):
    return blob[:-4] + struct.pack("<I", zlib.crc32(blob[:-4]))


def newer(blob):
    return summed(blob[:4] + struct.pack("<I", 3) + blob[8:])


def of_another(blob):
    return summed(blob[:8] + struct.pack("<I", 1) + blob[12:])


def damages(blob):
    """Every kind of damage, with the status and a word of what Python says."""
    yield b"", -4, "not weights"
    yield b"EPC2" + blob[4:], -4, "not weights"
    yield newer(blob), -5, "version 3"
    yield of_another(blob), -7, "another network"
    for cut in (21, len(blob) // 2, len(blob) - 4, len(blob) - 1):
        yield blob[:cut], -6, "cut off"
    yield blob + bytes(4), -6, "cut off"
    places = random.Random(0)
    for _ in range(40):
        at = places.randrange(20, len(blob))
        yield blob[:at] + bytes([blob[at] ^ 1 << places.randrange(8)]) + blob[at + 1 :], -6, "damaged"


@compiled
@pytest.mark.parametrize("integer", [False, True])
def test_a_refused_blob_leaves_the_device_and_torch_as_they_were(integer, tmp_path):
    network, x, y = made("depthwise", integer)
    _, host = exported(network, x, y, ruled(network, x, "pepita"), tmp_path / "c")
    host.learn(x[0], int(y[0]), 0.2)
    kept = host.save()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    for blob, status, said in damages(kept):
        assert host.load(blob) == status
        assert host.save() == kept
        with pytest.raises(ExportError, match=said):
            read(network, x, blob)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    other, x2, _ = made("mlp", integer)
    with pytest.raises(ExportError, match="another network"):
        read(other, x2, kept)


@compiled
@pytest.mark.parametrize("integer", [False, True])
def test_weights_go_to_torch_and_back(integer, tmp_path):
    network, x, y = made("depthwise", integer)
    _, host = exported(network, x, y, ruled(network, x, "pepita"), tmp_path / "c")
    for sample, target in zip(x, y.tolist(), strict=True):
        host.learn(sample, target, 0.2)
    kept, answer = host.save(), host.infer(x[0])
    read(network, x, kept)
    with torch.no_grad():
        assert (network.eval()(x[:1])[0] - answer).abs().max() < 1e-5
    host.start()
    assert host.save() != kept
    write(network, x, tmp_path / "weights.bin")
    assert host.load((tmp_path / "weights.bin").read_bytes()) == 0
    assert host.save()[20:-4] == kept[20:-4]
    assert read(network, x, tmp_path / "weights.bin") == 0


@compiled
@pytest.mark.parametrize("name", ["pepita", "dfa"])
def test_codes_that_have_been_to_torch_go_on_with_the_next_random_bits(name, tmp_path):
    network, x, y = made("mlp", integer=True)
    rule = ruled(network, x, name)
    _, host = exported(network, x, y, rule, tmp_path / "c")
    whole = trained(rule, x, y, 0.2)  # leaves rule as it is
    write(trained(rule, x[:3], y[:3], 0.2), x, tmp_path / "weights.bin")
    assert host.load((tmp_path / "weights.bin").read_bytes()) == 0
    for sample, target in zip(x[3:], y[3:].tolist(), strict=True):
        host.learn(sample, target, 0.2)
    assert read(network, x, host.save()) == len(x)  # beyond its own, which are none
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(value, network.state_dict()[key], rtol=0, atol=0 if "bias" not in key else 1e-6)


@compiled
def test_weights_that_rest_in_flash_are_not_replaced(tmp_path):
    network, x, y = made("mlp")
    _, host = exported(network, x, y, ruled(network, x, "last_layer"), tmp_path / "c")
    host.learn(x[0], int(y[0]), 0.2)
    kept = host.save()
    with torch.no_grad():
        network.chain[0].synapses.weight.mul_(2)
    write(network, x, tmp_path / "weights.bin")
    assert host.load((tmp_path / "weights.bin").read_bytes()) == -7
    assert host.save() == kept
    assert host.load(kept) == 0


@compiled
def test_wrong_calls_change_nothing(tmp_path):
    network, x, y = made("mlp")
    _, host = exported(network, x, y, ruled(network, x, "pepita"), tmp_path / "c")
    kept, room = host.save(), bytes(host.arena())
    values = (ctypes.c_float * 6)(*x[0].tolist())
    call, rate = host.library.ep_learn, ctypes.c_float(0.1)
    assert call(values, 5, 0, rate) == -2
    assert call(values, 7, 0, rate) == -2
    assert call(values, 6, 3, rate) == -3
    assert call(values, 6, ctypes.c_uint32(-1), rate) == -3
    assert call(values, 6, 0, ctypes.c_float(-0.1)) == -9
    assert call(values, 6, 0, ctypes.c_float(float("nan"))) == -9
    assert call(values, 6, 0, ctypes.c_float(float("inf"))) == -9
    assert host.library.ep_infer(values, 5) == -2
    assert host.library.ep_save(ctypes.create_string_buffer(8), 8) == -2
    assert host.save() == kept
    assert bytes(host.arena()) == room
    values[3] = float("nan")
    assert call(values, 6, 0, rate) == -10
    assert host.library.ep_infer(values, 6) == -10
    assert host.save() == kept  # the arena is scratch; weights and the count of steps are the state
    with pytest.raises(ExportError, match="wrong size: inputs are EP_INPUTS values"):
        host.infer(x[0, :5])
    for status in range(-10, 0):
        assert host.library.ep_message(status) not in (b"ok", b"unknown status")
    ctypes.c_uint32.in_dll(host.library, "ep_loaded").value = 0
    assert call(values, 6, 0, rate) == -1


@compiled
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["drtp", "local_heads"])
def test_no_layer_learns_at_once_from_what_is_not_finite(name, value, tmp_path):
    network, x, y = made("conv")
    _, host = exported(network, x, y, ruled(network, x, name), tmp_path / "c")
    kept, sample = host.save(), x[0].clone()
    sample.view(-1)[7] = value
    with pytest.raises(ExportError, match="finite"):
        host.learn(sample, 0, 0.1)
    assert host.save() == kept
    host.learn(x[0], 0, 0.1)
    assert host.save() != kept


@compiled
def test_a_frozen_layers_random_bits_stay_where_they_are(tmp_path):
    network, x, y = made("mlp", integer=True)
    network.freeze("0")
    rule = ruled(network, x, "dfa")
    _, host = exported(network, x, y, rule, tmp_path / "c")
    for sample, target in zip(x, y.tolist(), strict=True):
        host.learn(sample, target, 0.1)
    ours = trained(rule, x, y, 0.1).state_dict()
    read(network, x, host.save())
    theirs = network.state_dict()
    assert [int(theirs[key]) for key in theirs if key.endswith("step")] == [0, len(x), len(x)]
    assert all(torch.equal(ours[key], theirs[key]) for key in ours if key.endswith(("step", "codes")))
