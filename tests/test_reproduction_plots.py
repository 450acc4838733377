"""Sets against depth, width and strength, and angles over time: tables, figures, and runs that are as without."""

import json

import pytest
import torch

import edgepep
from edgepep import folders, lineplots, plugins, rules, training
from edgepep.angles import Angles
from edgepep.epoch import Epoch
from edgepep.errors import RecipeError, RunError
from edgepep.reproduction import page, plots, runner, sets, table
from edgepep.reproduction.axes import AXES
from edgepep.reproduction.store import Store, read

HEAD = """
title = "Tiny"
text = "Two epochs of digits."
source = "none"
seeds = 2
"""
NETWORK = """
[[cells]]
recipe = "digits-fc"
line = "digits"
rules = ["pepita", "feedback_alignment"]
changes.training = {{ epochs = 2, learning_rate = {rate} }}
changes.network.layers = [{hidden} {{ synapses = "linear", features = "classes", prepare = ["flatten"] }}]
"""


def depths(*numbers, width=8, rate=0.05, more='against = "hidden layers"'):
    hidden = f'{{ synapses = "linear", features = {width}, prepare = ["flatten"] }},'
    return HEAD + more + "".join(NETWORK.format(hidden=n * hidden, rate=rate) for n in numbers)


@pytest.fixture
def made(tmp_path):
    """Writes a set, does its runs, and gives both."""

    def make(text, seeds=None):
        (tmp_path / "tiny.toml").write_text(text)
        chosen, store = sets.load(tmp_path / "tiny.toml"), Store(tmp_path / "runs")
        for plan in chosen.plans(seeds):
            said = list(runner.perform(plan, runner.Where(store)))
            assert said[-1].what in ("stored", "diverged"), said[-1].error
        return chosen, store.read()

    return make


def sheet(chosen, stored, words):
    return next(one for one in table.sheets(chosen, stored) if words in one.title)


def test_accuracy_against_depth(made, tmp_path, monkeypatch):
    chosen, stored = made(depths(1, 2, 3))
    assert [cell.at("hidden layers") for cell in chosen.cells] == [1, 2, 3]
    found = sheet(chosen, stored, "against hidden layers")
    assert found.head == ("network", "rule", "1 hidden layer", "2 hidden layers", "3 hidden layers")
    assert [row[:2] for row in found.rows] == [
        ("digits", rule) for rule in ("pepita", "feedback_alignment", "frozen_hidden")
    ]
    assert all("(n = 2)" in cell for row in found.rows for cell in row[2:])
    drawn = plots.figures(chosen, stored)
    assert list(drawn) == ["curves", "layers"]
    (axes,) = drawn["layers"].axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "pepita",
        "feedback alignment",
        "frozen hidden",
    ]
    assert axes.get_xscale() == "linear"
    monkeypatch.setattr(plots, "figures", lambda *_: {"layers": drawn["layers"]})
    files = plots.save(chosen, stored, tmp_path / "figures")
    assert [file.name for file in files] == ["tiny-layers.png", "tiny-layers.svg"]
    again = plots.save(chosen, stored, tmp_path / "again")
    assert [file.read_bytes() for file in again] == [file.read_bytes() for file in files]


def test_where_a_recipe_stands():
    def at(axis, recipe, *rules):
        return AXES[axis].at(recipe, rules)

    recipe = edgepep.load("mnist-mlp")
    assert at("hidden layers", recipe) == 2
    assert at("hidden width", recipe) is None  # 256 and 128
    assert at("hidden width", edgepep.load("mnist-fc")) == 1024
    assert at("weight bits", recipe) == 32
    assert at("weight bits", recipe.quantized(4)) == 4
    assert at("time steps", recipe) is None
    assert at("time steps", recipe.spiking(steps=7)) == 7
    assert at("hidden layers", edgepep.load("resnet8")) == 9  # those without weights do not count
    strong = recipe.but(rules={"pepita": {"strength": 0.03}, "mempepita": {"strength": 0.1}})
    assert at("modulation strength", strong, "pepita", "backprop") == 0.03
    assert at("modulation strength", strong, "pepita", "mempepita") is None
    assert at("modulation strength", recipe, "pepita") is None
    columns = [
        AXES[axis].column(n) for axis, n in (("modulation strength", 0.03), ("weight bits", 1), ("time steps", 25))
    ]
    assert columns == ["0.03", "1 bit", "25 steps"]


def test_a_published_figure_stands_beside_the_runs_that_it_is_of(tmp_path):
    cells = """
[[cells]]
recipe = "mnist-fc"
rules = ["pepita", "backprop"]
changes.rules.pepita.strength = 0.01
[[cells]]
recipe = "mnist-fc"
rules = ["pepita"]
changes.training.epochs = 5
"""
    (tmp_path / "set.toml").write_text(HEAD + cells)
    assert [list(cell.published) for cell in sets.load(tmp_path / "set.toml").cells] == [["backprop"], []]


def test_the_page_shows_the_figures_that_there_are(tmp_path, monkeypatch):
    chosen, stored = sets.load("pepita-table1"), Store(folders.RUNS).read()
    assert "![" not in page.page([chosen], stored)
    for name in ("pepita-table1-curves.png", "pepita-table1-curves.svg", "pepita-table10-curves.png"):
        (tmp_path / name).write_text("")
    monkeypatch.setattr(page, "FIGURES", tmp_path)
    lines = [line for line in page.page([chosen], stored).splitlines() if "![" in line]
    place = "docs/figures/pepita-table1-curves"
    assert lines == [f"[![PEPITA, Table 1: curves]({place}.png)]({place}.svg)"]


def test_two_runs_are_not_one_point(made, tmp_path):
    (tmp_path / "twice.toml").write_text(depths(1, 1))
    assert sets.load(tmp_path / "twice.toml")  # the same runs, asked for twice
    other = NETWORK.format(hidden='{ synapses = "linear", features = 9, prepare = ["flatten"] },', rate=0.05)
    (tmp_path / "twice.toml").write_text(depths(1, 2) + other)
    with pytest.raises(RecipeError, match=r"cells\[2\]: pepita is on the line 'digits' at 1 hidden layers already"):
        sets.load(tmp_path / "twice.toml")
    (tmp_path / "twice.toml").write_text(depths(1, 2) + other.replace('"digits"', '"wider"'))
    assert len(sets.load(tmp_path / "twice.toml").cells) == 3


STRENGTH = """
[[cells]]
recipe = "digits-fc"
rules = ["pepita"]
changes.training = {{ epochs = 2 }}
changes.rules.pepita.strength = {}
"""


def test_accuracy_against_the_strength_of_modulation(made, tmp_path):
    wild = STRENGTH.format(0.9).replace("epochs = 2", "epochs = 2, learning_rate = 1e6")
    text = HEAD + 'controls = []\nagainst = "modulation strength"' + STRENGTH.format(0.01) + STRENGTH.format(0.1) + wild
    chosen, stored = made(text)
    found = sheet(chosen, stored, "against modulation strength")
    assert found.head[2:] == ("0.01", "0.1", "0.9")
    assert found.rows[0][-1] == "2 diverged"
    assert (tmp_path / "runs" / "digits-fc-epochs2-strength0.01-pepita-0.json").exists()
    (axes,) = plots.figures(chosen, stored)["strength"].axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["pepita", "pepita: diverged"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0.01", "0.1", "0.9"]
    assert axes.get_xscale() == "log"
    mark = next(line for line in axes.lines if line.get_markerfacecolor() == "white")
    assert list(mark.get_xdata()) == [0.9]
    assert axes.get_ylim()[0] < mark.get_ydata()[0] < min(axes.containers[0].lines[0].get_ydata())


def test_many_lines_are_told_apart():
    figure = lineplots.accuracy_against({str(i): {1: 10.0 + i, 2: 20.0} for i in range(12)}, "x")
    drawn = [box.lines[0] for box in figure.axes[0].containers]
    assert len({(line.get_linestyle(), line.get_marker(), line.get_color()) for line in drawn}) == 12
    lineplots.accuracy_against({"from nothing": {0: 10.0, 20: 20.0}}, "x")  # 0 has no logarithm


def test_angles_are_stored_drawn_and_set_in_a_table(made, tmp_path):
    chosen, stored = made(depths(2, more="angles = true"))
    about = json.loads(next((tmp_path / "runs").glob("*feedback_alignment-0.json")).read_text())
    assert about["angles"].keys() == {"update", "feedback"}
    assert about["angles"]["update"].keys() == {"0", "1", "2"}
    assert about["angles"]["feedback"].keys() == {"1", "2"}
    assert all(len(values) == 2 for series in about["angles"].values() for values in series.values())
    assert max(about["angles"]["update"]["2"]) < 0.1  # the last layer's is the exact gradient
    assert max(about["angles"]["update"]["0"]) > 5
    update = sheet(chosen, stored, "update to the exact gradient")
    assert update.head == ("network", "rule", "layer", "first epoch", "last epoch")
    assert [row[1:3] for row in update.rows] == [
        (r, layer) for r in ("pepita", "feedback_alignment") for layer in "012"
    ]
    assert [row[1:3] for row in sheet(chosen, stored, "feedback to the weights").rows] == [
        ("feedback_alignment", "1"),
        ("feedback_alignment", "2"),
    ]
    figure = plots.figures(chosen, stored)["angles"]
    labels = [axes.get_ylabel() for axes in figure.axes if axes.get_visible()]
    assert labels == ["update to the exact gradient, °"] * 2 + ["feedback to the weights, °"]
    styles = {(line.get_linestyle(), line.get_marker()) for line in figure.axes[0].lines if line.get_marker() != "None"}
    assert len(styles) == 3


def test_runs_without_angles_stay_as_they_are(made, tmp_path):
    _, before = made(depths(1), seeds=1)
    assert all(not result.angles and "angles" not in result.about for result in before.values())
    chosen, after = made(depths(1, more="angles = true"))
    assert {key: result.about for key, result in after.items() if key in before} == {
        k: r.about for k, r in before.items()
    }
    (note,) = (note for note in table.notes(chosen, after) if "angles" in note)
    assert "feedback_alignment-0.json and 1 more" in note
    assert "angles" in "".join(page.page([chosen], after))
    rows = sheet(chosen, after, "update to").rows
    assert [row[-1].count("n = 1") for row in rows] == [1] * len(rows)
    for result in before.values():  # the same run, measured
        result.path.unlink()
    _, again = made(depths(1, more="angles = true"))
    assert again.keys() == after.keys()
    for identity, result in before.items():
        assert {k: v for k, v in again[identity].curve.items() if k != "seconds"} == {
            k: v for k, v in result.curve.items() if k != "seconds"
        }


@pytest.mark.parametrize("damage", [{"update": {"0": [1.0]}}, {"update": {"0": [1, 200]}}, {"up": {"0": [1, 2]}}, [3]])
def test_damaged_angles_are_named(made, damage):
    _, stored = made(depths(1, more="angles = true\nseeds = 1\ncontrols = []").replace("seeds = 2\n", ""))
    path = next(iter(stored.values())).path
    path.write_text(json.dumps(json.loads(path.read_text()) | {"angles": damage}))
    with pytest.raises(RunError, match="damaged"):
        read(path)


def trained(tmp_path, recipe, rule, angles):
    out = tmp_path / f"{rule}-{angles}"
    epochs = list(training.train(recipe, rule=rule, epochs=2, out=out, angles=angles))
    return epochs, (out / "weights.safetensors").read_bytes()


LAYERS = [
    {"synapses": "linear", "features": 12, "dropout": 0.2, "prepare": ["flatten"]},
    {"synapses": "linear", "features": 12, "dropout": 0.2},
    {"synapses": "linear", "features": "classes"},
]


@pytest.mark.parametrize("rule", plugins.in_package(rules))
def test_measuring_angles_changes_no_run(tmp_path, rule):
    """With dropout and momentum, under every rule: the same weights and feedback, bit for bit, from the same draws."""
    recipe = edgepep.load("digits-fc").but(network={"layers": LAYERS}, training={"learning_rate": 0.01})
    torch.manual_seed(1)
    without, weights = trained(tmp_path, recipe, rule, False)
    left = torch.rand(1)
    torch.manual_seed(1)
    measured, same = trained(tmp_path, recipe, rule, True)
    assert torch.rand(1) == left
    assert same == weights
    assert [epoch[:4] for epoch in measured] == [epoch[:4] for epoch in without]
    assert all(epoch.angles is None for epoch in without)
    assert all(epoch.angles.keys() == {"0", "1", "2"} for epoch in measured)


@pytest.mark.parametrize("change", [{"spiking": {"steps": 4}}, {"quantized": {"weight_bits": 4}}])
def test_measuring_angles_changes_no_run_of_other_layers(tmp_path, change):
    recipe = edgepep.load("digits-fc").but(training={"learning_rate": 0.01}, **change)
    assert trained(tmp_path, recipe, "pepita", True)[1] == trained(tmp_path, recipe, "pepita", False)[1]


def test_angles_are_of_one_batch_and_of_the_weights_as_they_are():
    recipe = edgepep.load("digits-fc")
    data = edgepep.datasets.load("digits", True)
    rule, *_ = training.prepare(recipe, "feedback_alignment", 0, data, "cpu")
    angles = Angles(*next(data.shuffled(32, 0, 1)))
    first = angles(rule)
    assert angles(rule) == first
    _, last = rule.network.chain
    with torch.no_grad():
        last.synapses.weight.copy_(rule.feedback_matrices()[1])
    assert angles(rule)["0"][0] == pytest.approx(0, abs=0.1)  # fed back through the weights, it is the exact gradient
    assert angles(rule)["1"] == [pytest.approx(0, abs=0.1)] * 2
    assert angles(rule) != first


def test_a_run_that_goes_on_has_all_its_angles(tmp_path):
    recipe = edgepep.load("digits-fc")
    whole = [epoch.angles for epoch in training.train(recipe, epochs=4, out=tmp_path / "whole", angles=True)]
    seen = training.train(recipe, epochs=4, out=tmp_path / "run", angles=True, policy=training.Policy(save_every=0.0))
    assert [next(seen).angles, next(seen).angles] == whole[:2]
    seen.close()
    rest = [epoch.angles for epoch in training.train(recipe, epochs=4, out=tmp_path / "run", angles=True)]
    assert rest == whole[-len(rest) :]
    kept = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [Epoch.read(line).angles for line in kept] == whole


def test_an_epoch_comes_back_from_its_row():
    for more in (
        {},
        {"held_out_accuracy": 3.0},
        {"angles": {"0": [1.0, None]}},
        {"held_out_accuracy": 3.0, "angles": {}},
    ):
        epoch = Epoch(1, 0.5, 2.0, 4.0, 0.1, **more)
        assert Epoch(*epoch.row()) == epoch
    assert len(Epoch(1, 0.5, 2.0, 4.0, 0.1).row()) == 5  # as states of earlier versions have it
