"""Numbers that go wrong: training stops, says where and why, and the last good state is untouched."""

import json

import pytest
import torch

from edgepep import DivergenceError, checkpoint, load, states
from edgepep.keeper import HALVINGS, Policy
from edgepep.training import train
from tests.test_resume import RECIPE, go, make_loop, run_to

STEP = 37


def spoiling(where):
    """A callback that spoils one number at one step, or every time that step comes by."""

    def before(rule, x, target, samples):
        before.step += 1
        if before.step == STEP:
            with torch.no_grad():
                where(rule, x)

    before.step = 0
    before.state_dict = lambda: {"step": before.step}
    before.load_state_dict = lambda state: setattr(before, "step", state["step"])
    return before


def in_weights(rule, x):
    rule.network.chain[1].synapses.weight.view(-1)[3] = torch.nan


def in_input(rule, x):
    x.view(-1)[5] = torch.inf


@pytest.mark.parametrize(
    ("where", "words"),
    [
        (in_weights, f"step {STEP} of epoch 1: the current of layer 1 in the forward pass"),
        (in_input, f"step {STEP} of epoch 1: the current of layer 0 in the forward pass"),
    ],
)
def test_the_first_wrong_number_is_named_and_the_last_good_state_kept(where, words, tmp_path):
    policy = Policy(save_steps=10)
    with pytest.raises(DivergenceError, match=words) as said:
        list(train(RECIPE, epochs=2, out=tmp_path / "run", before_step=spoiling(where), policy=policy))
    assert "Likely cause" in str(said.value)
    assert "state-000000030.edgepep, is kept" in str(said.value)
    assert [path.name for path in states.found(tmp_path / "run")] == [f"state-0000000{n}.edgepep" for n in (30, 20)]
    with pytest.raises(DivergenceError):  # the same again
        list(train(RECIPE, epochs=2, out=tmp_path / "run", before_step=spoiling(where), policy=policy))


def test_the_cause_is_told_apart(tmp_path):
    with pytest.raises(DivergenceError, match=r"Likely cause: modulation: \|F e\| / \|x\| is 2.*lower feedback_scale"):
        go(tmp_path / "a", recipe=RECIPE.but(rules={"pepita": {"feedback_scale": 60.0}}))
    with pytest.raises(DivergenceError, match=r"Likely cause: a learning rate of 1e\+30 is too high; the modulation"):
        go(tmp_path / "b", recipe=RECIPE.but(training={"learning_rate": 1e30}))


def test_the_last_step_counts_too(tmp_path):
    """Weights that the very last update spoils are not a result."""
    from edgepep.updater import InPlaceSGD

    loop = make_loop("pepita")
    apply = InPlaceSGD.apply

    def spoil(self, parameter, gradient, scale=1.0):
        apply(self, parameter, gradient, scale)
        if loop.done == 9:
            with torch.no_grad():
                parameter.fill_(torch.nan)

    loop.optimizer.apply = spoil.__get__(loop.optimizer)
    with pytest.raises(DivergenceError, match=r"synapses.weight is not finite by step 5 of epoch 2"):
        list(loop.run())


def test_what_was_never_seen_may_be_nan(tmp_path):
    loop = make_loop("f3")
    run_to(loop, 2)
    assert loop.rule.delayed.isnan().any()
    loop.check()
    loop.rule.feedback["0"].codes[0, 0] = torch.inf
    with pytest.raises(DivergenceError, match="feedback"):
        loop.check()


def test_reload_and_halve(tmp_path):
    said = []
    wild = load("digits-fc").but(training={"learning_rate": 1e6, "decay_epochs": [1]})
    assert go(tmp_path / "run", recipe=wild, on_divergence="reload-and-halve", said=said)
    assert 1 <= len(said) < HALVINGS
    assert "on at half the learning rate, 500000" in said[0]
    assert "on at half the learning rate, 250000" in said[1]
    lines = [json.loads(line)["epoch"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines == [1, 2]
    assert checkpoint.read(tmp_path / "run")
    hopeless = spoiling(in_weights)
    with pytest.raises(DivergenceError, match=f"Given up after {HALVINGS} halvings"):
        list(train(RECIPE, out=tmp_path / "x", before_step=hopeless, policy=Policy(on_divergence="reload-and-halve")))


def test_an_integer_network_has_no_stand_in_to_fear():
    loop = make_loop("pepita", "integer weights")
    run_to(loop, 2)
    loop.check()


@pytest.mark.parametrize("name", ["mnist-fc-spiking", "mnist-fc-int8", "cifar10-conv", "mnist-fc-int4-integer"])
def test_recipes_begin_finite(name):
    from edgepep.divergence import first_not_finite

    recipe = load(name)
    assert not first_not_finite(recipe.make_rule(recipe.build()))
