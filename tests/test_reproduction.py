"""Sets of runs: stored once by what they are, done again never, and tables that come from what is stored alone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import edgepep
from edgepep import folders
from edgepep.cli import main
from edgepep.errors import EdgepepError, RecipeError, RunError, Stopped, UnknownName
from edgepep.reproduction import page, plots, runner, sets, table
from edgepep.reproduction.identity import Identity, setting
from edgepep.reproduction.progress import estimate
from edgepep.reproduction.slowness import slowness
from edgepep.reproduction.store import Store, read

ROOT = Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, "-c", "from edgepep.cli import main; main()", "reproduce"]
TINY = """
title = "Tiny"
text = "Two epochs of digits."
source = "none"
seeds = {seeds}
controls = ["frozen_hidden", "last_layer"]
slowness = true

[[cells]]
recipe = "digits-fc"
rules = ["pepita", "backprop"]
changes.training = {{ epochs = {epochs} }}
published.pepita = {{ accuracy = 90.0, std = 2.0, place = "nowhere", confidence = "recall" }}
curve.pepita = [{{ epoch = 1, accuracy = 60.0 }}]
"""
WILD = """
[[cells]]
recipe = "digits-fc"
rules = ["pepita"]
changes.training = { epochs = 2, learning_rate = 1e6 }
"""


@pytest.fixture
def tiny(tmp_path):
    def write(epochs=2, seeds=2, more=""):
        path = tmp_path / "tiny.toml"
        path.write_text(TINY.format(epochs=epochs, seeds=seeds) + more)
        return path

    return write


@pytest.fixture
def call(capsys, monkeypatch):
    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["edgepep", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return run


def contents(folder):
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(folder.glob("*.json"))}


def tables(out):
    return out[out.index("test accuracy after") :]


def test_a_set_is_done_once_and_gives_the_same_table(call, tiny, tmp_path):
    store = tmp_path / "runs"
    code, first, _ = call("reproduce", tiny(), "--results", store, "--jobs", 1)
    assert code == 0
    before = contents(store)
    assert len(before) == 6  # 3 rules, since last_layer is frozen_hidden here, and 2 seeds
    assert "digits-fc-epochs2-pepita-0.json" in before
    assert max(map(len, first[: first.index("test accuracy after")].splitlines())) <= 80
    assert "(n = 2)" in first
    assert "90.00 ± 2.00 †" in first
    assert "from memory" in first
    code, again, _ = call("reproduce", tiny(), "--results", store, "--jobs", 1)
    assert code == 0
    assert contents(store) == before
    assert tables(again) == tables(first)
    assert "begins" not in again
    about = json.loads((store / "digits-fc-epochs2-pepita-1.json").read_text())
    assert about["command"] == "edgepep reproduce tiny"
    assert about["seed"] == 1
    assert len(about["curve"]["test_accuracy"]) == about["epochs"] == 2
    assert about["test_accuracy"] == pytest.approx(about["curve"]["test_accuracy"][-1], abs=1e-3)
    assert {"versions", "machine", "python", "started", "device", "threads", "settings"} <= set(about)


def test_only_what_is_missing_is_listed_and_done(call, tiny, tmp_path):
    store = tmp_path / "runs"
    code, out, _ = call("reproduce", tiny(), "--results", store, "--list")
    assert code == 0
    assert out.count("missing") == 6
    assert not store.exists()
    call("reproduce", tiny(), "--results", store, "--jobs", 1, "--seeds", 1)
    assert len(contents(store)) == 3
    out = call("reproduce", tiny(), "--results", store, "--dry-run")[1]
    assert out.count("missing, about") == 3
    assert "3 of 6 runs are stored" in out
    removed = store / "digits-fc-epochs2-backprop-0.json"
    removed.unlink()
    before = contents(store)
    out = call("reproduce", tiny(), "--results", store, "--jobs", 1, "--seeds", 1)[1]
    assert out.count("begins") == 1
    after = contents(store)
    assert removed.name in after
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_and_started_again(call, tiny, tmp_path, jobs):
    path, store = tiny(epochs=40, seeds=1), tmp_path / "killed"
    command = [*COMMAND, str(path), "--results", str(store), "--jobs", str(jobs)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    while not contents(store) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = contents(store)
    assert 1 <= len(before) < 3, "killed in the middle"
    code, killed, _ = call("reproduce", path, "--results", store, "--jobs", jobs)
    assert code == 0
    after = contents(store)
    assert len(after) == 3
    assert {name: after[name] for name in before} == before
    whole = call("reproduce", path, "--results", tmp_path / "whole", "--jobs", jobs)[1]
    assert tables(killed) == tables(whole)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SIGINT")
def test_ctrl_c_keeps_what_was_finished(tiny, tmp_path):
    path, store = tiny(epochs=100), tmp_path / "runs"
    command = [*COMMAND, str(path), "--results", str(store), "--jobs", "2"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while not contents(store) and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "kept in" in out
    assert Store(store).read()


def test_two_at_once_do_no_run_twice(tiny, tmp_path):
    plans = sets.load(tiny(seeds=1)).plans()
    where = runner.Where(Store(tmp_path / "runs"))
    first, second = runner.perform(plans[0], where), runner.perform(plans[0], where)
    assert next(first).what == "began"
    assert [said.what for said in second] == ["busy"]
    assert [said.what for said in first][-1] == "stored"
    assert [said.what for said in runner.perform(plans[0], where)] == ["stored"]
    with pytest.raises(RunError, match="stored already"):
        where.store.add(plans[0], {})


def test_a_run_that_fails_stops_no_other(call, tiny, tmp_path, monkeypatch):
    store = tmp_path / "runs"
    code, out, _ = call("reproduce", tiny(seeds=1, more=WILD), "--results", store, "--jobs", 1)
    assert code == 0
    assert "diverged, and stored as that" in out
    assert "1 diverged" in tables(out)
    again = call("reproduce", tiny(seeds=1, more=WILD), "--results", store, "--jobs", 1)[1]
    assert tables(again) == tables(out)
    assert "begins" not in again
    (store / "digits-fc-epochs2-pepita-0.json").unlink()
    train = runner.training.train

    def broken(recipe, *, rule, **others):
        if rule == "pepita":
            raise RuntimeError("out of memory\nand more")
        return train(recipe, rule=rule, **others)

    monkeypatch.setattr(runner.training, "train", broken)
    code, out, err = call("reproduce", tiny(seeds=2), "--results", store, "--jobs", 1)
    assert code == 2
    assert err.strip() == "edgepep: error: 2 of 4 runs failed; the first: digits-fc-epochs2-pepita-0: out of memory"
    assert "not run" in tables(out)
    assert (store / "digits-fc-epochs2-backprop-1.json").exists()


@pytest.mark.slow
def test_a_process_that_dies_is_one_failed_run(tiny, tmp_path):
    import multiprocessing

    from edgepep.reproduction.processes import at_once

    plans = sets.load(tiny(epochs=300, seeds=1)).plans()[:2]
    ends = {}
    for said in at_once(plans, runner.Where(Store(tmp_path / "runs")), 1):
        if said.what == "began" and not ends:
            multiprocessing.active_children()[0].kill()
            ends["killed"] = said.plan.label
        if said.what in ("failed", "stored"):
            ends[said.plan.label] = said
    assert ends[plans[0].label].error == "its process ended with exit code -9"
    assert ends[plans[1].label].what == "stored"
    assert not multiprocessing.active_children()


def test_what_makes_two_runs_the_same():
    recipe = edgepep.load("digits-fc")
    same = setting(recipe, "pepita", 5)
    told = recipe.but(description="another", source="another", name="other", rules={"spela": {"training": {}}})
    assert setting(told, "pepita", 5) == same
    assert setting(recipe.but(rules={"pepita": {"reported": {"accuracy": 1.0, "place": "x"}}}), "pepita", 5) == same
    assert setting(recipe.but(training={"epochs": 7}), "pepita", 5) == same
    assert setting(recipe.but(rules={"pepita": {"training": {"learning_rate": 0.1}}}), "pepita", 5) == same
    assert setting(recipe.but(training={"learning_rate": 0.2}), "pepita", 5) != same
    assert setting(recipe.but(rules={"pepita": {"feedback_scale": 0.2}}), "pepita", 5) != same
    assert setting(recipe.but(rules={"pepita": {"network": {"neurons": "tanh"}}}), "pepita", 5) != same
    assert len({setting(recipe, rule, e) for rule in ("pepita", "backprop") for e in (5, 6)}) == 4
    assert setting(recipe.spiking(steps=5), "pepita", 5) != setting(recipe.spiking(steps=10), "pepita", 5)


def test_the_last_layer_alone_is_the_frozen_hidden_control():
    recipe = edgepep.load("digits-fc")
    assert setting(recipe, "last_layer", 2) == setting(recipe, "frozen_hidden", 2)
    assert setting(recipe.but(rules={"last_layer": {"layers": 2}}), "last_layer", 2) != setting(recipe, "backprop", 2)
    found = []
    for rule in ("last_layer", "frozen_hidden"):
        found.append([epoch[:4] for epoch in edgepep.train(recipe, rule=rule, epochs=2)])
    assert found[0] == found[1]


def test_stored_runs_of_the_repository_are_recognised():
    stored = Store(folders.RUNS).read()
    for rule in ("pepita", "backprop", "frozen_hidden"):
        for seed in range(3):
            identity = Identity(setting(edgepep.load("mnist-fc"), rule, 100), seed)
            assert stored[identity].path.name == f"mnist-fc-{rule}-{seed}.json"
    assert (
        table.figure(table.results_of(sets.load("pepita-table1").cells[0], "pepita", stored))
        .shown()
        .startswith("98.05 ± 0.21 (n = ")
    )


def test_a_name_that_is_taken_by_another_run(tiny, tmp_path):
    store = Store(tmp_path / "runs")
    plan = sets.load(tiny(seeds=1)).plans()[0]
    where = runner.Where(store)
    list(runner.perform(plan, where))
    recipe = plan.recipe.but(training={"learning_rate": 0.05})
    other = plan._replace(recipe=recipe, identity=Identity(setting(recipe, plan.rule, plan.epochs), plan.seed))
    assert other.label == plan.label
    list(runner.perform(other, where))
    names = sorted(contents(store.folder))
    assert names == sorted([f"{plan.label}.json", f"{plan.label}-{other.identity.short}.json"])
    assert len(store.read()) == 2
    (store.folder / "copy.json").write_bytes((store.folder / f"{plan.label}.json").read_bytes())
    with pytest.raises(RunError, match=r"copy\.json.*hold the same run"):
        store.read()


def test_a_run_by_two_names_is_stored_once(tiny, tmp_path):
    plan = sets.load(tiny(seeds=1)).plans()[0]
    where = runner.Where(Store(tmp_path / "runs"))
    for one in (plan, otherwise_told(plan)):  # as two processes do that have both looked before
        assert list(runner.perform(one, where))[-1].what == "stored"
    assert len(where.store.read()) == len(contents(where.store.folder)) == 1
    (where.store.folder / f"{plan.label}.json").unlink()
    assert not where.store.holds(otherwise_told(plan))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda about: "{", "line 1"),
        (lambda about: json.dumps({k: v for k, v in about.items() if k != "rule"}), "'rule'"),
        (lambda about: json.dumps(about | {"epochs": 3}), "3 epochs"),
        (lambda about: json.dumps(about | {"test_accuracy": 99.9}), "99.9"),
        (lambda about: json.dumps(about | {"settings": about["settings"] | {"dataset": "digitz"}}), "digitz"),
        (lambda about: "[]", "list"),
    ],
)
def test_damaged_results_are_named(call, tiny, tmp_path, damage, words):
    path, store = tiny(seeds=1), Store(tmp_path / "runs")
    plan = sets.load(path).plans()[0]
    list(runner.perform(plan, runner.Where(store)))
    file = store.folder / f"{plan.label}.json"
    file.write_text(damage(json.loads(file.read_text())))
    code, _, err = call("reproduce", path, "--results", store.folder)
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert all(word in err for word in (file.name, "damaged", words))


def test_sets_with_a_mistake(tiny, tmp_path):
    with pytest.raises(UnknownName, match="did you mean 'pepita-table1'"):
        sets.load("pepita-tabel1")
    good = tiny().read_text()
    for old, new, words in (
        ("seeds = 2", "seed = 2", "did you mean 'seeds'"),
        ('"backprop"]', '"backprob"]', "did you mean 'backprop'"),
        ('"digits-fc"', '"digits-fd"', r"cells\[0\].*did you mean 'digits-fc'"),
        ("epochs = 2", "epoch = 2", "did you mean 'epochs'"),
        ("std = 2.0", "sdt = 2.0", r"cells\[0\]\.published\.pepita\.sdt.*did you mean 'std'"),
        ('"recall"', '"sure"', "confidence"),
        ("rules = [", "rulez = [", "rulez|rules"),
    ):
        (tmp_path / "wrong.toml").write_text(good.replace(old, new))
        with pytest.raises(RecipeError, match=words):
            sets.load(tmp_path / "wrong.toml")
    for wrong in ("nowhere.toml", "wrong.toml"):
        (tmp_path / "wrong.toml").write_text("title == 3")
        with pytest.raises(EdgepepError, match=wrong):
            sets.load(tmp_path / wrong)


def test_what_cannot_be_asked(call, tiny, tmp_path, monkeypatch):
    for arguments in (["--jobs", 0], ["--seeds", 0], ["--device", "cudda"]):
        code, _, err = call("reproduce", tiny(), "--results", tmp_path / "runs", *arguments)
        assert code == 2
        assert len(err.strip().splitlines()) == 1
    (tmp_path / "file").write_text("")
    code, _, err = call("reproduce", tiny(), "--results", tmp_path / "file", "--jobs", 1)
    assert code == 2
    assert "cannot write" in err
    assert "pepita-curve" in call("reproduce")[1]


@pytest.mark.parametrize("true", [0.05, 0.8, 6.0])
def test_slowness_of_curves_that_are_known(true):
    curve = [90 * t / (true + t) for t in range(1, 400)]
    assert slowness(curve) == pytest.approx(true, rel=0.15 if true > 1 else 0.05)  # a_max is the last, not the limit
    noisy = [a + 0.1 * (-1) ** i for i, a in enumerate(curve)]
    assert slowness(noisy) == pytest.approx(slowness(curve), rel=0.1)
    dropped = [*curve[:60], *[a + 5 for a in curve[60:]]]
    assert slowness(dropped, 60) == slowness(curve[:60])
    with pytest.raises(EdgepepError, match="two epochs"):
        slowness([90.0])


def test_slowness_puts_curves_in_order():
    curves = [[90 * t / (s + t) for t in range(1, 60)] for s in (0.1, 0.5, 2.0)]
    found = [slowness(curve) for curve in curves]
    assert found == sorted(found)
    assert slowness([50.0] * 20) < 1e-3  # at its height after one epoch


def test_estimates_come_from_what_is_alike(tiny, tmp_path):
    store = Store(tmp_path / "runs")
    plans = sets.load(tiny()).plans()
    assert estimate(plans[0], store.read()) is None
    list(runner.perform(plans[0], runner.Where(store)))
    (result,) = store.read().values()
    assert estimate(plans[-1], store.read()) == pytest.approx(result.seconds)
    wider = [{"prepare": ["flatten"], "synapses": "linear", "features": 4000}, {"synapses": "linear"}]
    other = plans[-1]._replace(recipe=plans[-1].recipe.but(network={"layers": wider}))
    unlike = other._replace(identity=other.identity._replace(setting="another"))
    assert estimate(unlike, store.read()) is None  # nothing is known of such a network


def test_figures(tiny, tmp_path):
    store = Store(tmp_path / "runs")
    chosen = sets.load(tiny())
    with pytest.raises(EdgepepError, match="nothing of the set"):
        plots.save(chosen, store.read(), tmp_path / "figures")
    for plan in chosen.plans():
        list(runner.perform(plan, runner.Where(store)))
    files = plots.save(chosen, store.read(), tmp_path / "figures")
    assert [file.name for file in files] == ["tiny-curves.png", "tiny-curves.svg"]
    assert all(file.stat().st_size > 1000 for file in files)


def test_the_page_of_results_is_as_generated(call):
    stored = Store(folders.RUNS).read()
    made = page.page([sets.load(name) for name in sets.names()], stored)
    assert (ROOT / "RESULTS.md").read_text(encoding="utf-8") == made, "edgepep results --out RESULTS.md"
    assert call("results")[1] == made
    assert "chooses nothing" in made


def test_a_page_is_not_overwritten_by_one_of_nothing(call, tmp_path, monkeypatch):
    kept = tmp_path / "RESULTS.md"
    kept.write_text("kept")
    for arguments in ((), ("--out", kept)):
        code, out, err = call("results", "--results", tmp_path / "nonexist", *arguments)
        assert (code, out) == (2, "")
        assert f"no folder {tmp_path / 'nonexist'} of results" in err
    assert kept.read_text() == "kept"
    monkeypatch.setattr(Store, "read", lambda _: pytest.fail("it was read before the path was looked at"))
    assert f"cannot write {tmp_path / 'no' / 'page.md'}" in call("results", "--out", tmp_path / "no" / "page.md")[2]
    assert "it is a folder" in call("results", "--out", tmp_path)[2]
    assert not (tmp_path / "no").exists()


def test_every_stored_run_is_whole():
    for path in folders.RUNS.glob("*.json"):
        result = read(path)
        assert result.accuracy is None or torch.isfinite(torch.tensor(result.accuracy))
        assert {"command", "versions", "seed", "machine"} <= set(result.about)
        assert " " not in path.name


def test_names_of_files_hold_no_spaces(tiny):
    cell = '[[cells]]\nrecipe = "digits-fc"\nrules = ["dfa"]\nchanges.training = { epochs = 3, decay_epochs = [1, 2] }'
    names = [plan.label for plan in sets.load(tiny(seeds=1, more=cell)).plans()]
    assert "digits-fc-epochs3-decay_epochs1,2-dfa-0" in names


def otherwise_told(plan):
    """The same run: its recipe better described, another rule's rate changed, its changes given in another way."""
    recipe = plan.recipe.but(description="better told", rules={"dfa": {"training": {"learning_rate": 0.03}}})
    told = plan._replace(recipe=recipe, changes={**plan.changes, "network": {"neurons": recipe.network.neurons}})
    assert setting(recipe, plan.rule, plan.epochs) == plan.identity.setting
    assert told.label != plan.label
    return told


@pytest.mark.parametrize("as_asked_later", [lambda plan: plan, otherwise_told])
def test_a_run_goes_on_inside_an_epoch(tiny, tmp_path, monkeypatch, as_asked_later):
    """A run that was stopped, or killed, in the middle is not begun again, and gives the same result."""
    plan, *_ = sets.load(tiny(seeds=1, epochs=6)).plans()
    whole = runner.Where(Store(tmp_path / "whole"))
    assert [said.what for said in runner.perform(plan, whole)][-1] == "stored"
    monkeypatch.setattr(runner, "_SAVE_EVERY", 0.0)
    where = runner.Where(Store(tmp_path / "runs"))
    seen = runner.perform(plan, where)
    assert [next(seen).what for _ in range(4)] == ["began", "epoch", "epoch", "epoch"]
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Stopped):
        next(seen)
    work = where.store.work(plan)
    assert (work / "run.json").exists()
    assert not where.store.read()
    said = [one.what for one in runner.perform(as_asked_later(plan), where)]
    assert said == ["began", "epoch", "epoch", "epoch", "stored"]
    assert not work.exists()
    results = [next(iter(Store(tmp_path / name).read().values())) for name in ("whole", "runs")]
    assert results[0].curve["test_accuracy"] == results[1].curve["test_accuracy"]
    assert results[0].curve["loss"] == results[1].curve["loss"]


def test_a_run_that_ended_but_was_not_stored_is_not_done_again(tiny, tmp_path, monkeypatch):
    plan, *_ = sets.load(tiny(seeds=1)).plans()
    where = runner.Where(Store(tmp_path / "runs"))
    add = Store.add
    monkeypatch.setattr(Store, "add", lambda *_: (_ for _ in ()).throw(OSError("killed here")))
    assert [said.what for said in runner.perform(plan, where)][-1] == "failed"
    monkeypatch.setattr(Store, "add", add)
    assert [said.what for said in runner.perform(plan, where)] == ["began", "stored"]


def test_a_working_directory_that_cannot_be_used_is_begun_again(tiny, tmp_path):
    plan, *_ = sets.load(tiny(seeds=1)).plans()
    where = runner.Where(Store(tmp_path / "runs"))
    where.store.work(plan).mkdir()
    (where.store.work(plan) / "run.json").write_text("{")
    assert [said.what for said in runner.perform(plan, where)] == ["began", "epoch", "epoch", "stored"]
