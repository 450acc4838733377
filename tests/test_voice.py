"""What is seen of several processes when one of them fails, or all do: one message, no traceback, no hang."""

import os
import socket
import subprocess
import sys

import pytest

FAILING = """
import os, sys
which, kind = sys.argv.pop(1).split(":")
if os.environ["RANK"] in which.split(","):
    import edgepep.loop, edgepep.training
    from edgepep.errors import DataError
    def fails(*_):
        if kind == "data":
            raise DataError("mine is damaged.")
        if kind == "memory":
            raise MemoryError("none is left")
        os.kill(os.getpid(), 9)
    if kind == "data":
        edgepep.training.datasets.load = fails
    else:
        check = edgepep.loop.Loop.check
        edgepep.loop.Loop.check = lambda loop: fails() if loop.epoch == 2 else check(loop)
from edgepep.cli import main
main()
"""


def processes(folder, *words, script=None):
    """Two, started as torchrun does; their exit codes, and all that both print as errors."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    own = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    command = [sys.executable, *(["-c", script] if script else ["-m", "edgepep"]), *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": folder}
    started = [subprocess.Popen(command, env={**os.environ, **own, "RANK": str(rank)}, **pipes) for rank in range(2)]
    said = [process.communicate(timeout=120) for process in started]
    assert not said[1][0]
    return [process.returncode for process in started], "".join(err for _, err in said).splitlines()


def test_a_typo_is_said_once(tmp_path):
    codes, lines = processes(tmp_path, "train", "digits-fc", "--rule", "pepitta")
    assert codes == [2, 2]
    assert len(lines) == 1
    assert lines[0].startswith("edgepep: error: no rule called 'pepitta'; did you mean 'pepita'?")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "digit-fc"], "edgepep: error: no recipe called 'digit-fc'"),
        (["train", "digits-fc", "--epochs", "0"], "edgepep: error: epochs is 0"),
        (["train", "digits-fc", "--held-out", "5"], "edgepep: error: held_out is 5"),
        (["train", "digits-fc", "--rule", "weight_mirror"], "edgepep: error: a step of WeightMirror"),
    ],
)
def test_what_all_hit_alike_is_said_once(tmp_path, words, said):
    codes, lines = processes(tmp_path, *words)
    assert codes == [2, 2]
    assert len(lines) == 1
    assert lines[0].startswith(said)


@pytest.mark.slow
def test_a_wrong_option_is_said_once(tmp_path):
    codes, lines = processes(tmp_path, "train", "digits-fc", "--bogus", "1")
    assert codes == [2, 2]
    assert [line for line in lines if "No such option" in line] == lines[-1:]
    assert sum("Usage" in line for line in lines) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "code", "said"),
    [
        ("1:data", 2, "process 1 of 2: mine is damaged."),
        ("0,1:data", 2, "mine is damaged."),
        ("0:data", 2, "mine is damaged."),
        ("1:memory", 1, "process 1 of 2: MemoryError: none is left (<string>, line 11)"),
        ("1:kill", 2, "process 1 of 2 ended without a word, killed perhaps."),
    ],
)
def test_an_error_of_one_process(tmp_path, which, code, said):
    codes, lines = processes(tmp_path, which, "train", "digits-fc", "--epochs", "3", script=FAILING)
    assert lines == [f"edgepep: error: {said}"]
    assert all(codes)
    assert code in codes


@pytest.mark.slow
def test_an_error_before_the_processes_are_joined(tmp_path):
    script = FAILING.replace("edgepep.training.datasets.load = fails", "edgepep.models.load = fails")
    script = script.replace("import edgepep.loop,", "import edgepep.models, edgepep.loop,")
    codes, lines = processes(tmp_path, "1:data", "train", "digits-fc", script=script)
    assert lines == ["edgepep: error: process 1 of 2: mine is damaged."]
    assert all(codes)


@pytest.mark.slow
def test_under_torchrun_itself(tmp_path):
    (tmp_path / "failing.py").write_text(FAILING)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for which, said in (("1:data", "process 1 of 2: mine is damaged."), ("0,1:data", "mine is damaged.")):
        words = [*command, "failing.py", which, "train", "digits-fc", "--epochs", "3"]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode != 0
        own = [line for line in done.stderr.splitlines() if line.startswith("edgepep: ")]
        assert own == [f"edgepep: error: {said}"]
