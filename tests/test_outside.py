"""Rules kept outside edgepep, "package.module:Name", take their options wherever others do."""

import json

import pytest

from edgepep import EdgepepError, RecipeError, checkpoint, load, models
from edgepep.build import rule_class
from edgepep.reproduction import grid
from edgepep.tables import head_of
from edgepep.toml_files import nested
from tests.test_cli import refused, run  # noqa: F401
from tests.test_guides import rule_of_the_guide


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The guide's rule as pulling:Pull, and within a package."""
    (tmp_path / "own").mkdir()
    for path in ("pulling.py", "own/pulls.py"):
        (tmp_path / path).write_text(rule_of_the_guide())
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["pulling:Pull", "own.pulls:Pull"])
def test_on_the_command_line(name, mine, run):  # noqa: F811
    gain = f"rules.{name}.gain=0.5"
    own = ("--set", gain, "--set", f"rules.{name}.training.epochs=1")
    code, out, err = run("train", "digits-fc", "--rule", name, *own, "--out", "one")
    assert code == 0, err
    assert "1 epochs" in out
    stored = json.loads((mine / "one" / "run.json").read_text())["recipe"]["rules"][name]
    assert stored == {"gain": 0.5, "training": {"epochs": 1}}
    assert checkpoint.read(mine / "one", name).learner.gain == 0.5
    refused(run("evaluate", "one"), f"--rule {name}")
    assert run("evaluate", "one", "--rule", name)[0] == 0
    refused(run("train", "digits-fc", "--rule", name, "--set", f"rules.{name}.gian=1"), f"{name}.gian", "gain, seed")
    refused(run("train", "digits-fc", "--rule", "dfa", "--set", gain), name, "does not learn by it, but by dfa")
    refused(run("train", "digits-fc", "--set", "rules.pepitta.limit=1"), "did you mean 'pepita'")


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize("name", ["pulling:Pull", "own.pulls:Pull"])
def test_in_grids_and_recipes(name, run, tmp_path):  # noqa: F811
    axes = [f"rule={name},dfa", f"rules.{name}.gain=0.1,0.5", f"rules.{name}.training.learning_rate=0.2"]
    found = grid.plans(load("digits-fc"), [grid.axis(word) for word in axes], "")
    assert [plan.recipe.options(plan.rule) for plan in found] == [{"gain": 0.1}, {"gain": 0.5}, {}]
    assert [plan.recipe.settings(plan.rule).learning_rate for plan in found] == [0.2, 0.2, 0.1]
    assert grid.coordinates(found[0])[f"rules.{name}.gain"] == 0.1
    once = ("sweep", "digits-fc", "--set", f"rule={name}", "--set", "training.epochs=1", "--jobs", "1")
    code, _, err = run(*once, "--set", f"rules.{name}.gain=0.1,0.5", "--set", f"head.rule={name}")
    assert code == 0, err
    assert len(list((tmp_path / "sweeps" / "digits-fc").glob("*.json"))) == 2
    assert "missing" not in run(*once, "--set", f"rules.{name}.gain=0.1", "--set", f"head.rule={name}", "--list")[1]
    table = f'base = "digits-fc"\n[rules."{name}"]\ngain = 0.5\ntraining = {{ epochs = 1 }}\n'
    (tmp_path / "r.toml").write_text(table)
    recipe = models.load(tmp_path / "r.toml")
    assert recipe.settings(name).epochs == 1
    assert recipe.make_rule(recipe.build(), name).gain == 0.5
    (tmp_path / "r.toml").write_text(table.replace("gain", "gian"))
    recipe = models.load(tmp_path / "r.toml")
    recipe.make_rule(recipe.build(), "dfa")
    with pytest.raises(RecipeError, match=rf"rules\.{name}\.gian.*Allowed: gain, seed"):
        recipe.make_rule(recipe.build(), name)


def test_as_a_head(mine, run):  # noqa: F811
    run_it = ("train", "digits-fc", "--rule", "dfa", "--epochs", "1", "--head", "pulling:Pull", "--out", "one")
    code, _, err = run(*run_it, "--set", "rules.pulling:Pull.gain=0.5")
    assert code == 0, err
    refused(run("evaluate", "one"), "pulling:Pull", "not imported because a file says so", "--rule pulling:Pull")
    assert run("evaluate", "one", "--rule", "pulling:Pull")[0] == 0
    read = checkpoint.read(mine / "one", "pulling:Pull")
    assert [type(rule).__name__ for rule in read.learner.rules] == ["Dfa", "Pull"]
    assert read.learner.rules[1].gain == 0.5
    assert read.under("pulling:Pull") is read.learner
    both = load("digits-fc").but(head={"rule": "own.pulls:Pull"})
    net = both.build()
    assert len({type(rule) for rule in both.make_rule(net, "pulling:Pull").rules}) == 2
    assert rule_class("pulling:Pull") is not rule_class("own.pulls:Pull")


@pytest.mark.parametrize(
    ("text", "rule", "layers"),
    [("drtp", "drtp", 1), ("drtp:2", "drtp", 2), ("pulling:Pull", "pulling:Pull", 1), ("a.b:Pull:3", "a.b:Pull", 3)],
)
def test_words_for_a_head(text, rule, layers):
    assert head_of(text) == {"rule": rule, "layers": layers}


@pytest.mark.parametrize("text", ["drtp:", "drtp:two", "pulling:Pull:x", "pulling:", ":Pull", "pulling:Pull:1:2"])
def test_what_is_no_head(text):
    with pytest.raises(RecipeError, match=r"NAME:LAYERS with a number of layers. NAME may be package\.module:Name"):
        head_of(text)


def test_places_of_settings():
    assert nested({"rules.a.b:C.training.epochs": 1, "rules.dfa.form": "full"}) == {
        "rules": {"a.b:C": {"training": {"epochs": 1}}, "dfa": {"form": "full"}}
    }
    with pytest.raises(EdgepepError, match="set twice"):
        nested({"rules.a.b:C": 1, "rules.a.b:C.gain": 2})
