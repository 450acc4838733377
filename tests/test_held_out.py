"""Samples held out of the training set: which ones, what is judged by them, and that nothing else changes."""

import json
import math

import pytest
import torch

from edgepep import EdgepepError, InPlaceSGD, checkpoint, datasets, fit, load, train
from edgepep.epoch import Epoch
from edgepep.errors import DataError, RecipeError
from edgepep.keeper import Policy
from edgepep.reproduction import sets
from edgepep.reproduction.identity import setting
from tests.test_cli import refused, run  # noqa: F401

DIGITS = datasets.load("digits", True)


def small(counts):
    labels = torch.tensor([label for label, count in enumerate(counts) for _ in range(count)])
    return datasets.Data("mine", torch.arange(len(labels)).float().unsqueeze(1), labels, len(counts))


def test_a_split_is_balanced_and_always_the_same():
    left, held = DIGITS.split(300)
    assert (len(left), len(held)) == (1137, 300)
    assert held.labels.bincount().tolist() == [30] * 10
    again = DIGITS.split(300)[1]
    assert torch.equal(held.inputs, again.inputs)
    both = torch.cat([left.inputs, held.inputs]).flatten(1)
    assert sorted(map(tuple, both.tolist())) == sorted(map(tuple, DIGITS.inputs.flatten(1).tolist()))
    more = {tuple(row) for row in DIGITS.split(305)[1].inputs.flatten(1).tolist()}
    assert {tuple(row) for row in held.inputs.flatten(1).tolist()} <= more
    # which samples these are is never to change: runs of one sweep may be years apart
    data = small([5, 5])
    assert data.split(4)[1].inputs.flatten().tolist() == [0, 2, 5, 8]


@pytest.mark.parametrize("name", ["data", "test", "held_out"])
def test_fit_takes_data(name):
    """And says so when it is called, not when it is gone through."""
    rule = load("digits-fc").make_rule(load("digits-fc").build(), "pepita")
    given = {"data": DIGITS, name: (DIGITS.inputs, DIGITS.labels)}
    said = rf"{name} is a tuple; fit takes datasets\.Data\(name, inputs, labels, classes\)"
    with pytest.raises(EdgepepError, match=said):
        fit(rule, optimizer=InPlaceSGD(rule.network, 0.1), **given)


def test_a_rare_class_is_still_trained_on():
    left, held = small([20, 3, 1]).split(12)
    assert held.labels.bincount(minlength=3).tolist() == [10, 2, 0]
    assert left.labels.bincount(minlength=3).tolist() == [10, 1, 1]
    assert len(small([20, 3, 1]).split(23)[0]) == 1


@pytest.mark.parametrize("held_out", [-1, 0, 9, 1437, 10**9])
def test_how_many_there_may_be(held_out):
    with pytest.raises(DataError, match=rf"held_out is {held_out}; of digits, 1437 .* can be 10 to 1436"):
        DIGITS.split(held_out)


@pytest.mark.parametrize("value", [-1, True, 2.0, "many"])
def test_what_a_recipe_may_say(value):
    with pytest.raises(RecipeError, match=r"training\.held_out"):
        load("digits-fc").but(training={"held_out": value})


def test_none_held_out_is_the_same_run():
    recipe = load("digits-fc")
    none = recipe.but(training={"held_out": 0})
    assert none.table() == recipe.table()
    assert setting(none, "pepita", 5) == setting(recipe, "pepita", 5)
    assert setting(recipe.but(training={"held_out": 300}), "pepita", 5) != setting(recipe, "pepita", 5)


def test_the_test_set_is_not_read(monkeypatch):
    recipe, loaded, load_ = load("digits-fc").but(training={"held_out": 300}), [], datasets.load

    def noted(name, part, folder=None):
        loaded.append(part)
        return load_(name, part, folder)

    monkeypatch.setattr(datasets, "load", noted)
    (epoch,) = train(recipe, epochs=1)
    assert loaded == [True]
    assert math.isnan(epoch.test_accuracy)
    assert epoch.accuracy == epoch.held_out_accuracy > 20
    assert (epoch.judged_on, Epoch.read(epoch.table()).accuracy) == ("held-out", epoch.accuracy)


def test_held_out_samples_keep_the_classes_that_training_does_not_show():
    recipe = load("digits-fc").but(training={"held_out": 300, "without": [7]})
    *_, epoch = train(recipe, epochs=5)
    assert epoch.accuracy < 90.1


def test_on_the_command_line(run, tmp_path):  # noqa: F811
    code, out, _ = run("train", "digits-fc", "--epochs", "2", "--held-out", "300", "--out", "one")
    assert code == 0
    assert "digits, 300 held out" in out
    assert out.count("held-out ") == 2
    assert "test " not in out
    lines = [json.loads(line) for line in (tmp_path / "one" / "metrics.jsonl").read_text().splitlines()]
    assert all("held_out_accuracy" in line and "test_accuracy" not in line for line in lines)
    assert checkpoint.read_about(tmp_path / "one")["recipe"]["training"]["held_out"] == 300
    assert "of 360 test samples" in run("evaluate", "one")[1]
    refused(run("train", "digits-fc", "--held-out", "-5"), "training.held_out", "-5")
    refused(run("train", "digits-fc", "--held-out", "5"), "held_out is 5", "10 to 1436")
    refused(run("train", "digits-fc", "--epochs", "2", "--out", "one"), "one", "exists already")


def test_settings_on_the_command_line(run, tmp_path):  # noqa: F811
    words = ("--set", "training.learning_rate=0.05", "--set", "network.bias=true", "--set", "training.epochs=1")
    assert run("train", "digits-fc", *words, "--out", "one")[0] == 0
    recipe = checkpoint.read_about(tmp_path / "one")["recipe"]
    assert (recipe["training"]["learning_rate"], recipe["network"]["bias"]) == (0.05, True)
    refused(run("train", "digits-fc", "--set", "training.epochs"), "key=value")
    refused(run("train", "digits-fc", "--set", "seed=3"), "--seed 3")
    refused(run("train", "digits-fc", "--set", "training.epoch=3"), "did you mean 'epochs'")
    refused(run("train", "digits-fc", "--set", "training=3", "--set", "training.epochs=3"), "set twice")


def test_a_run_goes_on_inside_an_epoch(tmp_path):
    recipe = load("digits-fc").but(training={"held_out": 300})
    whole = list(train(recipe, epochs=3, out=tmp_path / "whole"))
    stops = iter([0] * 80 + [15] * 1000)
    with pytest.raises(EdgepepError):
        list(train(recipe, epochs=3, out=tmp_path / "cut", policy=Policy(stop=lambda: next(stops))))
    list(train(recipe, epochs=3, out=tmp_path / "cut"))
    a, b = (checkpoint.metrics(tmp_path / name) for name in ("whole", "cut"))
    assert [line["held_out_accuracy"] for line in a] == [line["held_out_accuracy"] for line in b]
    assert [line["held_out_accuracy"] for line in a] == [epoch.accuracy for epoch in whole]
    weights = [(tmp_path / name / checkpoint.WEIGHTS).read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]


def test_a_set_is_judged_on_the_test_set(tmp_path):
    path = tmp_path / "mine.toml"
    cell = '[[cells]]\nrecipe = "digits-fc"\nrules = ["pepita"]\nchanges = {training = {held_out = 300}}\n'
    path.write_text('title = "t"\ntext = "t"\nsource = "s"\n' + cell)
    with pytest.raises(RecipeError, match="holds out 300 samples"):
        sets.load(path)


def test_grids_say_what_they_are_judged_by(run):  # noqa: F811
    words = ("sweep", "digits-fc", "--set", "training.epochs=1", "--jobs", "1", "--csv", "out.csv")
    code, out, _ = run(*words, "--set", "training.held_out=300")
    assert code == 0
    assert "held-out accuracy, %" in out
    assert "test accuracy" not in out
    with open("out.csv") as file:
        assert "held_out_accuracy" in file.readline()
    out = run(*words, "--set", "training.held_out=0,300")[1]
    assert "\ttest accuracy, %\theld-out accuracy, %\t" in out
    assert out.count("begins") == 1
