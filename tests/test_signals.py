"""Asked to stop, training keeps its state within a step; killed at any moment, it loses a few steps at most."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edgepep import Stopped, cli, signals, states
from edgepep.keeper import Policy
from edgepep.training import train
from tests.test_resume import RECIPE, go

ROOT = Path(__file__).resolve().parent.parent
here = pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGUSR1"),
    reason="signals are delivered to a main thread, on POSIX",
)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("name", ["KILL", "TERM"])
def test_forty_interruptions_end_at_the_same_weights(name):
    """Also within saves; 500 of each are in docs/reliability.md."""
    command = [sys.executable, "-m", "tests.interrupting", "--kills", "40", "--signal", name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(r"40 killed.*runs finished.*every one at the weights", done.stdout)


@here
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGUSR1", 138)])
def test_a_signal_keeps_the_state_within_one_step(name, code, tmp_path):
    at = []

    def before(rule, x, target, samples):
        at.append(len(at))
        if len(at) == 30:
            os.kill(os.getpid(), getattr(signal, name))

    usual = signal.getsignal(signal.SIGTERM)
    with signals.noted() as stop, pytest.raises(Stopped, match=f"{name}.*30 of 45 steps.*--resume") as stopped:
        list(train(RECIPE, epochs=2, out=tmp_path / "run", before_step=before, policy=Policy(stop=stop)))
    assert stopped.value.code == code
    assert len(at) == 30
    assert states.found(tmp_path / "run")[0].name == "state-000000030.edgepep"
    assert signal.getsignal(signal.SIGTERM) is usual


@here
def test_the_second_signal_ends_at_once():
    with signals.noted() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop() == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(SystemExit) as ended:
            os.kill(os.getpid(), signal.SIGTERM)
    assert ended.value.code == 143


@here
def test_a_signal_during_an_evaluation_does_not_wait_for_its_end(tmp_path):
    calls = []

    def stop():
        calls.append(1)
        return 15 if len(calls) > 45 else 0  # the first batch of the evaluation after 45 steps

    assert not _goes(tmp_path / "run", stop)
    assert states.found(tmp_path / "run")[0].name == "state-000000045.edgepep"
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert go(tmp_path / "run")


def _goes(out, stop) -> bool:
    try:
        list(train(RECIPE, epochs=2, out=out, policy=Policy(stop=stop)))
    except Stopped:
        return False
    return True


@here
def test_the_command_line_goes_on_where_it_was_stopped(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    more = []

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["edgepep", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capsys.readouterr()

    train_it = ("train", "digits-fc", "--epochs", "20000", "--save-every", "0.2")
    for flag in ((), ("--resume",)):
        timer = threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        code, out, err = call(*train_it, *flag)
        assert code == 143
        assert "stopped by SIGTERM; the state" in err
        assert len(err.splitlines()) == 1
        more.append(out)
    assert "going on from state-" in more[1]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["digits-fc-pepita-seed0"]
    assert call("train", "digits-fc", "--epochs", "30", "--resume")[0] == 2
    assert call("train", "digits-fc", "--epochs", "30", "--out", "runs/digits-fc-pepita-seed0")[0] == 2
