"""Several processes, one set of bits: the same weights with one, two and four, and a clean end when one dies."""

import os
import socket
import subprocess
import sys
import time

import pytest
import torch

from edgepep import EdgepepError, InPlaceSGD, datasets, load
from edgepep.group import PARTS, Group, joined
from edgepep.parallel import Parallel
from edgepep.training import prepare
from tests.sharing import all_digests

DIGITS = datasets.load("digits", True)


def processes(count, *arguments):
    """Start so many, as torchrun does, and wait; their exit codes and what they said of errors."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    common = {**os.environ, "WORLD_SIZE": str(count), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    command = [sys.executable, "-m", "tests.sharing", *map(str, arguments)]
    started = [
        subprocess.Popen(command, env={**common, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(count)
    ]
    errors = [process.communicate(timeout=300)[1] for process in started]
    return [process.returncode for process in started], errors


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_the_same_bits_with_any_number_of_processes(tmp_path, count):
    codes, errors = processes(count, tmp_path / "said")
    assert codes == [0] * count, errors
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = all_digests(Group())
    finally:
        torch.set_num_threads(threads)
    assert len({line.split()[2] for line in alone}) == len(alone)
    for rank in range(count):
        assert (tmp_path / f"said-{rank}").read_text().splitlines() == alone


def test_a_process_that_dies_ends_the_others(tmp_path):
    codes, errors = processes(2, tmp_path / "said", 3)
    assert codes[1] == 1
    assert codes[0] != 0
    assert "one of them has ended" in errors[0]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_parts_learn_what_the_batch_does(momentum):
    """The update is that of the whole batch, up to the order of sums."""
    made, whole = (prepare(load("digits-fc"), "pepita", 0, DIGITS, "cpu")[0] for _ in range(2))
    step = Parallel(made, InPlaceSGD(made.network, 0.1, momentum), Group(), DIGITS.take(slice(0, 70)))
    InPlaceSGD(whole.network, 0.1, momentum)
    for i in range(5):
        x, y = DIGITS.take(slice(70 * i, 70 * i + 70))
        torch.testing.assert_close(step(x, y).logits, whole(x, y).logits, rtol=1e-4, atol=1e-5)
    for one, other in zip(made.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_what_cannot_be_split_is_refused():
    for rule, what in (("weight_mirror", "besides the weights"), ("kolen_pollack", "besides the weights")):
        made, optimizer, _ = prepare(load("digits-fc"), rule, 0, DIGITS, "cpu")
        with pytest.raises(EdgepepError, match=what):
            Parallel(made, optimizer, Group(), DIGITS.take(slice(0, 64)))


def test_how_many_processes_there_may_be(monkeypatch):
    assert PARTS == 8
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(EdgepepError, match=r"3 processes cannot share 8 parts.*1, 2, 4, 8"), joined("cpu"):
        pass
    monkeypatch.delenv("WORLD_SIZE")
    with joined("cpu") as group:
        assert group is None


def test_the_first_process_says_when_to_stop():
    made, optimizer, _ = prepare(load("digits-fc"), "pepita", 0, DIGITS, "cpu")
    step = Parallel(made, optimizer, Group(), DIGITS.take(slice(0, 64)), lambda: 15)
    assert step.stopped == 0
    step(*DIGITS.take(slice(0, 64)))
    assert step.stopped == 15


def torchrun(count, folder, *arguments):
    """`edgepep train` in so many processes, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    common = {**os.environ, "WORLD_SIZE": str(count), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    command = [sys.executable, "-m", "edgepep", "train", "digits-fc", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": folder}
    return [subprocess.Popen(command, env={**common, "RANK": str(rank)}, **pipes) for rank in range(count)]


@pytest.mark.slow
def test_a_run_in_two_processes_stops_and_goes_on(tmp_path):
    """SIGTERM to all of them, then the same command again: the weights are those of a run that was left alone."""
    words = ("--epochs", "25", "--save-steps", "7")
    folders = {name: tmp_path / name for name in ("stopped", "alone")}
    first = torchrun(2, tmp_path, *words, "--out", "stopped")
    metrics = folders["stopped"] / "metrics.jsonl"
    while not metrics.exists() and first[0].poll() is None:
        time.sleep(0.02)
    for process in first:
        process.terminate()
    said = [process.communicate(timeout=120) for process in first]
    assert first[0].returncode == 143, said
    assert "is kept in stopped" in said[0][1]
    assert not said[1][0]
    for name in folders:
        again = torchrun(2, tmp_path, *words, "--out", name)
        out = [process.communicate(timeout=200) for process in again]
        assert [process.returncode for process in again] == [0, 0], out
    weights = [(folder / "weights.safetensors").read_bytes() for folder in folders.values()]
    assert weights[0] == weights[1]
    refused = subprocess.run(
        [sys.executable, "-m", "edgepep", "train", "digits-fc", *words, "--out", "alone"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert refused.returncode == 2
