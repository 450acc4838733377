"""The machinery of the benchmarks; nothing here depends on how long anything takes."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch

from benchmarks import __main__ as runner
from benchmarks import cycles, scaling, scaling_plot, stored
from benchmarks.nets import Pool, mlp, three_conv
from benchmarks.rounds import Case, Goal, Timing, table, timings
from benchmarks.steps import autograd, in_backward, naive, products, rule, sample_by_sample, those_that_run
from edgepep.rules.pepita import Pepita

SIZES = [6, 5, 10]


def tiny(quick=True):
    net, pool = mlp(SIZES), Pool((6,), 4, 16)
    candidates = {"backprop": autograd(net, pool), "pepita": rule(Pepita, net, pool), "quoted": 1000.0}
    yield "a line of text"
    yield Case("tiny", candidates, "backprop", (Goal("pepita", "quoted", 1.0),), absent={"other": "not installed"})


@pytest.fixture
def suite(monkeypatch):
    """One tiny suite in place of the real ones."""
    monkeypatch.setattr(runner, "names", lambda: ["tiny"])
    monkeypatch.setitem(sys.modules, "benchmarks.tiny", SimpleNamespace(cases=tiny))


def run_once(path, *more):
    return runner.main(["--quick", "--threads", "1", "--out", str(path), *more])


def with_ratio(path, candidate, factor):
    """The same run, in which a candidate took this many times as long."""
    run = json.loads(path.read_text())
    for result in run["results"]:
        if result["candidate"] == candidate:
            result |= {name: result[name] * factor for name in ("milliseconds", "ratio", "low", "high")}
    other = path.with_name("other.json")
    other.write_text(json.dumps(run))
    return other


def test_a_run_is_printed_stored_and_read_back(suite, tmp_path, capsys):
    path = tmp_path / "runs" / "one.json"
    assert run_once(path) == 0
    said = capsys.readouterr().out
    assert "a line of text" in said
    assert "absent: not installed" in said
    assert "pepita / quoted" in said
    run = stored.load(path)
    assert {"date", "command", "cpu", "python", "torch", "edgepep", "meter"} <= set(run)
    assert [(r["candidate"], r["base"]) for r in run["results"]] == [
        ("backprop", "backprop"),
        ("pepita", "backprop"),
        ("quoted", "backprop"),
        ("pepita", "quoted"),
    ]
    for result in run["results"]:
        assert result["suite"] == result["case"] == "tiny"
        assert result["threads"] == 1
        assert result["low"] <= result["ratio"] <= result["high"]
    assert run["results"][0]["ratio"] == 1
    assert [note["text"] for note in run["notes"]] == ["a line of text", "tiny: other is absent: not installed"]


def test_a_slowdown_is_named_and_strict_fails(suite, tmp_path, capsys, monkeypatch):
    path = tmp_path / "one.json"
    run_once(path)
    same = stored.load(path)
    monkeypatch.setattr(runner, "_run", lambda suite, threads, run: run["results"].extend(same["results"]))
    quicker = with_ratio(path, "pepita", 0.8)
    capsys.readouterr()
    assert run_once(tmp_path / "two.json", "--against", str(quicker)) == 0
    said = capsys.readouterr().out
    assert "SLOWER tiny, tiny, 1 thread: pepita takes" in said
    assert "25 % slower" in said
    assert run_once(tmp_path / "two.json", "--against", str(quicker), "--strict") == 1
    assert run_once(tmp_path / "two.json", "--against", str(path), "--strict") == 0
    assert "nothing is more than 10 % slower" in capsys.readouterr().out


@pytest.mark.parametrize(("factor", "flagged"), [(1.11, True), (1.09, False), (0.5, False)])
def test_a_tenth_is_the_limit(factor, flagged):
    def of(ratio):
        timing = Timing("a", "b", ratio, ratio, ratio, ratio)
        return {"results": [stored.row("suite", "case", 1, timing)]}

    assert bool(list(stored.slowdowns(of(2.0 * factor), of(2.0)))) is flagged
    other = stored.row("suite", "another case", 1, Timing("a", "b", 9.0, 9.0, 9.0, 9.0))
    assert not list(stored.slowdowns({"results": [other]}, of(2.0)))


def test_the_newest_whole_run_of_such_a_machine_is_taken(suite, tmp_path):
    path = tmp_path / "quick.json"
    run_once(path)
    run = stored.load(path)
    assert stored.newest(run["cpu"], tmp_path) is None
    for name, date in (("old", "2026-01-01"), ("new", "2026-02-01")):
        stored.save(run | {"quick": False, "date": date}, tmp_path / f"{name}.json")
    (tmp_path / "scaling.json").write_text('{"results": [{}]}')
    assert stored.newest(run["cpu"], tmp_path) == tmp_path / "new.json"
    assert stored.newest("another", tmp_path) is None


def test_suites_are_listed_and_a_typo_is_explained(capsys):
    assert runner.main(["--list"]) == 0
    listed = capsys.readouterr().out.split()
    assert {"step", "conv", "rules", "spiking", "quantized", "onnx_quantized", "ort_step", "epochs", "startup"} <= set(
        listed
    )
    assert not {"__main__", "rounds", "device", "scaling"} & set(listed)
    assert runner.main(["stepp"]) == 2
    said = capsys.readouterr().err
    assert "no suite called 'stepp'; did you mean 'step'?" in said
    assert all(name in said for name in listed)


@pytest.mark.parametrize("given", [["--threads", "0"], ["--threads", "many"], ["--against", "nowhere.json"]])
def test_what_cannot_be_is_said(suite, given, capsys):
    assert runner.main([*given, "--quick"]) == 2
    assert given[1] in capsys.readouterr().err


def test_another_file_is_no_run(suite, tmp_path, capsys):
    path = tmp_path / "other.json"
    path.write_text('{"results": [1]}')
    assert runner.main(["--quick", "--against", str(path)]) == 2
    assert "is no run of the benchmarks" in capsys.readouterr().err


def test_differences_goals_and_numbers_without_a_run():
    case = Case("numbers", {"a": 10.0, "b": 30.0}, "a", (Goal("b - a", "a", 1.0),), {"b - a": ("b", "a")})
    found = {t.candidate: t for t in timings(case, 3)}
    assert (found["b"].ratio, found["b - a"].milliseconds, found["b - a"].ratio) == (3.0, 20.0, 2.0)
    assert "MISSES 1" in table(case, 1, list(found.values()))


def test_every_way_to_take_a_step_runs():
    net, pool = mlp(SIZES), Pool((6,), 4, 16)
    before = [p.clone() for p in net.parameters()]
    for make in (autograd, in_backward, naive, sample_by_sample):
        make(net, pool)()
    products(SIZES, 4)()
    assert all(torch.equal(p, old) for p, old in zip(net.parameters(), before, strict=True))
    conv, images = three_conv(1, 8), Pool((1, 8, 8), 2, 4)
    rule(Pepita, conv, images, conv_reduction="mean")()


def test_those_that_do_not_run_are_named():
    def broken():
        raise ImportError("no module named 'other'\nand more")

    runs, absent = those_that_run({"here": lambda: print, "other": broken})
    assert list(runs) == ["here"]
    assert absent == {"other": "ImportError: no module named 'other'"}


def test_the_meter_falls_back_on_cpu_time(monkeypatch):
    monkeypatch.setattr(cycles, "_SYSCALLS", {})
    meter = cycles.Meter()
    assert meter.unit == "CPU ms"
    before = meter.read()
    sum(range(10**6))
    assert meter.read() > before


def test_exponents_are_those_of_the_larger_half():
    values = [1, 2, 4, 8, 16, 32]
    assert scaling.exponent(values, [n**1.5 for n in values]) == pytest.approx(1.5)
    assert scaling.exponent(values, [max(n, 8) for n in values]) == pytest.approx(1.0)


def test_scaling_is_measured_and_drawn(tmp_path):
    axis = scaling.Axis("batch", (1, 2, 4), lambda n: scaling.dense([6, 5, 10], n), lambda n: float(n))
    run = stored.begun(1, True, []) | {"threads": 1, "results": list(scaling.points(axis, 1))}
    assert all(point["peak_bytes"] > 0 for point in run["results"])
    run["exponents"] = scaling.exponents(run["results"])
    assert run["exponents"]["batch"]["arithmetic"] == pytest.approx(1.0)
    paths = scaling_plot.save(run, tmp_path)
    assert [path.name for path in paths] == ["scaling.png", "scaling.svg"]
    first = paths[1].read_bytes()
    scaling_plot.save(run, tmp_path)
    assert paths[1].read_bytes() == first


@pytest.mark.slow
def test_every_suite_runs(tmp_path):
    assert runner.main(["--quick", "--threads", "1", "--out", str(tmp_path / "all.json")]) == 0
    run = stored.load(tmp_path / "all.json")
    assert {result["suite"] for result in run["results"]} == set(runner.names())
