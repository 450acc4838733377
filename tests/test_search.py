"""Searches: what is drawn, what is judged, and that a search goes on as if it had never been stopped."""

import csv
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from edgepep import EdgepepError, load
from edgepep.reproduction.space import dimension, space
from edgepep.reproduction.store import Store
from tests.test_cli import refused, run  # noqa: F401

WORDS = ["training.learning_rate=0.01~1", "training.epochs=2", "training.held_out=300"]
SETS = [part for word in WORDS for part in ("--set", word)]
SEARCH = ("sweep", "digits-fc", *SETS, "--jobs", "1")


@pytest.fixture(scope="module", autouse=True)
def optuna():
    return pytest.importorskip("optuna", reason="Optuna is not installed: pip install 'edgepep[search]'")


def best(out):
    """The table that a search ends with, and the command."""
    return out[out.index("trials are finished") :].splitlines()[1:]


def test_dimensions():
    rate = dimension("training.learning_rate=0.001~0.3")
    assert (rate.low, rate.high, rate.whole, rate.by_factors) == (0.001, 0.3, False, True)
    assert not dimension("training.momentum=0~0.9").by_factors
    assert not dimension("training.momentum=0.5~0.9").by_factors
    assert rate.value(0.0123456) == 0.01235
    assert rate.value(0.30000001) == 0.3
    size = dimension("training.batch_size=16..64")
    assert (size.low, size.high, size.whole, size.value(17)) == (16, 64, True, 17)
    assert dimension("rule=pepita,dfa").choices == {"pepita": "pepita", "dfa": "dfa"}
    assert dimension("network.bias=true,false").choices == {"true": True, "false": False}
    assert dimension("training.decay_epochs=[1, 2],[3]").choices == {"[1, 2]": [1, 2], "[3]": [3]}
    assert dimension("training.epochs=1,3..4").choices == {"1": 1, "3": 3, "4": 4}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["training.learning_rate=1~0.1"], "no range"),
        (["training.learning_rate=0.1~fast"], "two numbers"),
        (["training.learning_rate=0.1~inf"], "no range"),
        (["training.batch_size=1..many"], "two whole numbers"),
        (["training.batch_size=16~64"], "valid integer"),
        (["training.batch_size=0..64"], "greater than 0"),
        (["training.learning_rat=0.1~1"], "did you mean 'learning_rate'"),
        (["rule=pepita,dfaa"], "did you mean 'dfa'"),
        (["rule=pepita,pepita"], "stands there twice"),
        (["rule=pepita,dfa", "rule=usf"], "set twice"),
        (["rule"], "no axis"),
        (["rule=pepita,dfa", "seed=0.5"], "seed is 0.5"),
        (["rule=pepita,dfa", "dataset=digits,mnist"], "one value of it"),
        (["rule=forward_forward", "training.learning_rate=0.1~1"], r"changes nothing.*\[rules.forward_forward\]"),
        (["rule=usf,dfa", "rules.pepita.feedback_scale=0.1~1"], "changes nothing"),
        ([], "nothing to search"),
    ],
)
def test_what_cannot_be_searched(words, said):
    with pytest.raises(EdgepepError, match=said):
        space(load("digits-fc"), [*words, "training.held_out=300"], "")


def test_the_examples_of_the_help_can_be_typed(run):  # noqa: F811
    code, out, _ = run("sweep", "--help")
    assert code == 0
    assert all(len(line) <= 80 for line in out.splitlines())
    found = re.findall(r"\S+=\S+[0-9a-z]", out.partition("--set <")[2].partition("--jobs")[0])
    assert "training.learning_rate=0.01~1" in found
    assert space(load("digits-fc"), [*found, "training.held_out=200"], "c").dimensions


def test_a_search_does_not_choose_by_the_test_set(run):  # noqa: F811
    for recipe in (load("digits-fc"), load("digits-fc").but(rules={"dfa": {"training": {"held_out": 300}}})):
        with pytest.raises(EdgepepError, match=r"must not choose by the test set.*--set training.held_out=N"):
            space(recipe, ["rule=dfa,pepita"], "")
    two = load("digits-fc").but(training={"held_out": 300}, rules={"dfa": {"training": {"held_out": 200}}})
    with pytest.raises(EdgepepError, match="dfa holds out 200 samples, pepita 300"):
        space(two, ["rule=pepita,dfa"], "")
    refused(run("sweep", "digits-fc", "--search", "3", "--set", "rule=pepita,dfa"), "must not choose by the test set")
    refused(run(*SEARCH, "--search", "3", "--slurm"), "--slurm does a grid")
    refused(run(*SEARCH, "--search", "0"), "--search is 0")
    refused(run("sweep", "digits-fc", *SETS[:2]), "--search")


def test_a_search_goes_on_to_so_many_trials(run, tmp_path):  # noqa: F811
    words = (*SEARCH, "--set", "rule=pepita,backprop", "--set", "seed=0..1")
    code, out, _ = run(*words, "--search", "12", "--results", "whole", "--csv", "out.csv")
    assert code == 0
    assert out.count("begins") == 24
    table = best(out)
    assert table[0].split("\t") == ["trial", "learning_rate", "rule", "held-out accuracy, %", "n"]
    assert len(table) == 13
    with open("out.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24
    number, rate, rule, accuracy, n = table[1].split("\t")
    own = [row for row in rows if row["trial"] == number]
    mean = sum(float(row["held_out_accuracy"]) for row in own) / 2
    assert accuracy.startswith(f"{mean:.2f} ±")
    assert n == "2"
    assert table[-1] == (
        f"edgepep train digits-fc --rule {rule} --set training.epochs=2 --set training.learning_rate={rate}"
    )
    code, out, _ = run(*table[-1].split()[1:], "--out", "best")
    assert code == 0
    assert out.count("test ") == 2

    assert run(*words, "--search", "5", "--results", "parts")[0] == 0
    assert "5 of 12 trials are finished" in run(*words, "--search", "12", "--results", "parts", "--list")[1]
    code, out, _ = run(*words, "--search", "12", "--results", "parts")
    assert out.count("begins") == 14
    assert best(out) == table
    out = run(*words, "--search", "12", "--results", "parts")[1]
    assert "begins" not in out
    assert best(out) == table
    (tmp_path / "parts" / "search.journal").unlink()
    out = run(*words, "--search", "12", "--results", "parts")[1]
    assert "begins" not in out  # trials are drawn again, and their runs are there
    assert best(out) == table


def test_what_a_grid_has_stored_is_not_done_again(run):  # noqa: F811
    grid = ("sweep", "digits-fc", "--set", "training.held_out=300", "--set", "training.epochs=1", "--jobs", "1")
    assert run(*grid, "--set", "rule=pepita,dfa,usf")[1].count("begins") == 3
    words = ("--set", "rule=usf,pepita,dfa", "--set", "training.epochs=1", "--set", "training.held_out=300")
    code, out, _ = run("sweep", "digits-fc", *words, "--search", "8", "--jobs", "1")
    assert code == 0
    assert "begins" not in out
    other = ("--set", "training.held_out=300", "--set", "rule=usf,pepita,dfa", "--set", "training.epochs=1")
    assert "8 of 8 trials" in run("sweep", "digits-fc", *other, "--search", "8", "--list")[1]


def test_listing_makes_nothing(run, tmp_path):  # noqa: F811
    code, out, _ = run(*SEARCH, "--search", "3", "--list")
    assert (code, out) == (0, "0 of 3 trials are finished.\n")
    assert not list(tmp_path.iterdir())


def test_divergence_counts_as_chance(run):  # noqa: F811
    words = ("sweep", "digits-fc", *SETS[2:], "--jobs", "1", "--set", "training.learning_rate=0.1,1e30")
    code, out, _ = run(*words, "--set", "seed=0..1", "--search", "4")
    assert code == 0
    assert "trial 0: " in out
    assert " 10.00 % held-out" in out
    head, first, *_, last, _, _ = best(out)
    assert head.endswith("\tn\tdiverged")
    assert first.endswith("\t2\t0")
    assert last.endswith("\t-\t0\t2")


def test_trials_that_fail_are_said_and_given_up(run, tmp_path):  # noqa: F811
    words = ("sweep", "digits-fc", "--set", "training.held_out=5", *SETS[:4], "--jobs", "1")
    code, out, err = run(*words, "--search", "9")
    assert code == 2
    assert "3 trials in a row failed; the last: held_out is 5" in err
    assert out.count("begins") == 3
    assert not list((tmp_path / "sweeps" / "digits-fc").glob("*.json"))


def test_a_damaged_journal(run, tmp_path):  # noqa: F811
    words = (*SEARCH, "--search")
    run(*words, "2")
    journal = tmp_path / "sweeps" / "digits-fc" / "search.journal"
    whole = journal.read_bytes()
    journal.write_bytes(whole + whole[:40])  # killed as it wrote
    assert "3 of 3 trials are finished" in run(*words, "3")[1]
    journal.write_bytes(b"not a journal\n" + whole)
    refused(run(*words, "3"), "search.journal is damaged", "Remove it")


def edgepep(folder, *words):
    """A search in a process of its own, which does not end by itself for some seconds."""
    longer = [word.replace("epochs=2", "epochs=60") for word in SEARCH]
    command = [sys.executable, "-m", "edgepep", *longer, *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, **pipes)


def states(folder):
    return list((folder / "sweeps" / "digits-fc" / ".work").glob("*/state-*"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_search_that_is_stopped_goes_on(tmp_path, number):
    """The trial that was under way is marked failed, and its point is the first to be tried again."""
    first = edgepep(tmp_path, "--search", "3")
    while not states(tmp_path) and first.poll() is None:
        time.sleep(0.02)
    first.send_signal(number)
    _, err = first.communicate(timeout=60)
    assert first.returncode == (130 if number == signal.SIGINT else -9)
    assert "Traceback" not in err
    out, err = edgepep(tmp_path, "--search", "3").communicate(timeout=120)
    assert "3 of 3 trials are finished" in out, err
    results = tmp_path / "sweeps" / "digits-fc"
    assert len(Store(results).read()) == 3
    assert not list((results / ".locks").glob("process-*"))
    assert not list((results / ".work").glob("digits*"))


@pytest.mark.slow
def test_two_processes_share_a_search(tmp_path):
    """Each trial is done once, also those of a process that is killed."""
    both = [edgepep(tmp_path, "--search", "6") for _ in range(3)]
    while len(states(tmp_path)) < 3 and both[0].poll() is None:
        time.sleep(0.02)
    os.kill(both[0].pid, signal.SIGKILL)
    said = [process.communicate(timeout=200) for process in both]
    assert [process.returncode for process in both] == [-9, 0, 0], said
    assert "6 of 6 trials are finished" in said[1][0]
    assert best(said[1][0]) == best(said[2][0])
    assert sum(out.count("begins") for out, _ in said[1:]) == 6
    assert len(Store(tmp_path / "sweeps" / "digits-fc").read()) == 6


@pytest.mark.slow
def test_several_runs_at_a_time(tmp_path):
    out, err = edgepep(tmp_path, "--search", "4", "--jobs", "2").communicate(timeout=120)
    assert "4 of 4 trials are finished" in out, err
    again, err = edgepep(tmp_path, "--search", "4", "--jobs", "2").communicate(timeout=60)
    assert best(again) == best(out), err


def test_without_optuna(tmp_path):
    words = ["edgepep", *SEARCH, "--search", "3"]
    script = f"import sys; sys.modules['optuna'] = None; sys.argv = {words};from edgepep.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["edgepep: error: --search needs Optuna: pip install 'edgepep[search]'."]


def test_optuna_is_not_imported_for_a_grid(tmp_path):
    words = ["edgepep", "sweep", "digits-fc", "--set", "training.epochs=1", "--jobs", "1"]
    script = f"import sys; sys.modules['optuna'] = None; sys.argv = {words};from edgepep.cli import main; main()"
    assert subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True).returncode == 0
