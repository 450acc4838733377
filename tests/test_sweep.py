"""Sweeps: what a grid holds, what is stored and not done again, and what comes out as a table."""

import csv
import math
import subprocess
import sys
from pathlib import Path

import pytest

from edgepep import EdgepepError, load
from edgepep.reproduction import grid, sweep
from edgepep.reproduction.runner import Where
from edgepep.reproduction.store import Store
from tests.test_cli import refused, run  # noqa: F401


def plans(*words):
    return grid.plans(load("digits-fc"), [grid.axis(word) for word in words], "edgepep sweep digits-fc")


def test_axes():
    assert grid.axis("rule=pepita,dfa") == ("rule", ["pepita", "dfa"])
    assert grid.axis("seed=0..3") == ("seed", [0, 1, 2, 3])
    assert grid.axis("seed=7,1..2") == ("seed", [7, 1, 2])
    assert grid.axis("training.learning_rate=0.1,1e-2") == ("training.learning_rate", [0.1, 0.01])
    assert grid.axis("network.bias=true,false") == ("network.bias", [True, False])
    assert grid.axis("training.decay_epochs=[1, 2],[3]") == ("training.decay_epochs", [[1, 2], [3]])


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("seed", "no axis"),
        ("=1", "no axis"),
        ("seed=", "no axis"),
        ("seed=a..b", "no range"),
        ("seed=5..1", "no range"),
        ("seed=0..99999999999", "no range"),
        ("seed=1,1", "stands there twice"),
    ],
)
def test_what_is_no_axis(word, said):
    with pytest.raises(EdgepepError, match=said):
        grid.axis(word)


def test_every_combination_once():
    found = plans("rule=pepita,dfa", "training.learning_rate=0.1,0.2", "seed=0..2")
    assert len(found) == len({plan.identity for plan in found}) == 12
    assert [grid.coordinates(plan) for plan in found][:2] == [
        {"rule": "pepita", "seed": 0, "training.learning_rate": 0.1},
        {"rule": "pepita", "seed": 1, "training.learning_rate": 0.1},
    ]
    assert found[-1].recipe.settings("dfa").learning_rate == 0.2
    same = load("digits-fc").training.learning_rate
    assert len(plans(f"training.learning_rate={same},0.3")) == 2
    assert plans(f"training.learning_rate={same}")[0].identity == plans()[0].identity


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rule=pepitta"], "did you mean 'pepita'"),
        (["rule=7"], "rule is 7"),
        (["seed=0.5"], "seed is 0.5"),
        (["training.learning_rat=1"], "learning_rat"),
        (["training.learning_rate=fast"], "learning_rate"),
        (["seed=0", "seed=1"], "set twice"),
        (["seed=0..999", "training.epochs=1..999"], "999000 runs"),
        (["rules.pepita.strength=0.005,0.01,nan"], "rules.pepita.strength is nan; it must be finite"),
        (["training.learning_rate=0.1,-inf"], "training.learning_rate is -inf; it must be finite"),
        (["training.rates={0=inf}"], "training.rates is {'0': inf}; it must be finite"),
    ],
)
def test_what_cannot_be(words, said):
    with pytest.raises(EdgepepError, match=said):
        plans(*words)


def test_a_recipe_that_is_not_finite(tmp_path):
    (tmp_path / "mine.toml").write_text('base = "digits-fc"\n[rules.pepita]\nstrength = nan\n')
    with pytest.raises(EdgepepError, match=r"mine: rules.pepita.strength is not finite"):
        grid.plans(load(tmp_path / "mine.toml"), [], "edgepep sweep mine.toml")


def test_a_sweep_goes_on_where_it_stopped(run, tmp_path, monkeypatch):  # noqa: F811
    words = ("sweep", "digits-fc", "--set", "rule=pepita,backprop", "--set", "training.epochs=1", "--jobs", "1")
    assert run(*words, "--set", "seed=0")[0] == 0
    code, out, _ = run(*words, "--set", "seed=0..1", "--csv", "out.csv")
    assert code == 0
    assert out.count("begins") == 2  # those of seed 1 alone
    with open(tmp_path / "out.csv") as file:
        table = list(csv.DictReader(file))
    assert [(row["rule"], row["seed"]) for row in table] == [(r, s) for r in ("pepita", "backprop") for s in "01"]
    assert all(20 < float(row["test_accuracy"]) <= 100 for row in table)
    code, out, _ = run(*words, "--set", "seed=0..1")
    assert "begins" not in out
    lines = [line.split("\t") for line in out.splitlines()]
    assert [line[0] for line in lines] == ["rule", "pepita", "backprop"]
    mean = sum(float(row["test_accuracy"]) for row in table[:2]) / 2
    assert lines[1][2].startswith(f"{mean:.2f} ±")
    assert "4 of 4 runs are stored" in run(*words, "--set", "seed=0..1", "--list")[1]


def test_runs_that_diverge_or_fail_do_not_stop_the_others(run, tmp_path):  # noqa: F811
    axes = ("--set", "training.learning_rate=0.1,1e30", "--set", "training.epochs=1")
    code, out, _ = run("sweep", "digits-fc", *axes, "--jobs", "1", "--csv", "out.csv")
    assert code == 0
    assert "diverged" in out
    with open("out.csv") as file:
        accuracies = [float(row["test_accuracy"]) for row in csv.DictReader(file)]
    assert accuracies[0] > 20
    assert math.isnan(accuracies[1])
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{name}-ubyte").write_bytes(bytes(800))
    words = (
        "--set",
        "dataset=mnist,digits",
        "--set",
        "training.epochs=1",
        "--results",
        "two",
        "--data-dir",
        str(tmp_path),
    )
    code, out, err = run("sweep", "digits-fc", *words, "--jobs", "1")
    assert code == 2
    assert "1 of 2 runs failed" in err
    assert "train-images-idx3-ubyte" in err
    assert len(list((tmp_path / "two").glob("*.json"))) == 1


def test_bad_words_are_one_line(run):  # noqa: F811
    refused(run("sweep", "digits-fc", "--set", "sead=0..3"), "sead")
    refused(run("sweep", "digits-fc", "--set", "rules.pepita.strength=0.01,nan", "--list"), "strength is nan")
    refused(run("sweep", "digits-fc", "--jobs", "0"), "--jobs is 0")


def test_where_no_table_can_be_written_nothing_is_done(run, tmp_path):  # noqa: F811
    words = ("sweep", "digits-fc", "--set", "training.epochs=1")
    refused(run(*words, "--csv", "no/such/place.csv"), "cannot write no/such/place.csv", "no folder no/such")
    refused(run(*words, "--csv", str(tmp_path)), "it is a folder")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_jobs_of_a_cluster(tmp_path):
    pytest.importorskip("submitit", reason="submitit is not installed: pip install 'edgepep[slurm]'")
    from edgepep.reproduction.cluster import submitted

    store = Store(tmp_path / "runs")
    given = plans("seed=0..1", "training.epochs=1")
    said = list(submitted(given, Where(store), 2, cluster="local"))
    assert [s.what for s in said[2:]] == ["stored", "stored"]
    assert set(store.read()) == {plan.identity for plan in given}


def test_without_submitit(tmp_path):
    script = (
        "import sys; sys.modules['submitit'] = None; sys.argv = ['edgepep', 'sweep', 'digits-fc', '--slurm'];"
        "from edgepep.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'edgepep[slurm]'" in done.stderr


def test_rows_are_a_data_frame(tmp_path):
    store = Store(tmp_path)
    given = plans("training.epochs=1")
    from edgepep.reproduction.runner import run as do

    assert [said.what for said in do(given, Where(store))][-1] == "stored"
    (row,) = sweep.rows(given, store.read())
    assert row["rule"] == "pepita"
    assert row["epochs"] == 1


def test_git_sees_neither_runs_nor_sweeps():
    """The folders that commands make where they are run."""
    listed = (Path(__file__).parent.parent / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {"/runs/", "/sweeps/"} <= set(listed)
