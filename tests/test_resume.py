"""A run that is interrupted and gone on with ends where it would have ended: every rule, on every kind of network."""

import functools
import json
import math
import shutil

import pytest
import torch

from edgepep import Diagnostics, EdgepepError, RunError, checkpoint, datasets, load, plugins, rules, states
from edgepep.datasets import Data
from edgepep.keeper import Policy
from edgepep.loop import Loop
from edgepep.training import prepare, train

NAMES = plugins.in_package(rules)
HIDDEN = {"synapses": "linear", "features": 24, "prepare": ["flatten"]}
WAYS = {
    "plain": {},
    "dropout": {"network": {"layers": [HIDDEN | {"dropout": 0.3}, {"synapses": "linear"}]}},
    "integer weights": {"quantized": {"weights": "integer"}},
    "quantized": {"quantized": {"weight_bits": 8}},
    "spiking": {"spiking": {"steps": 4, "code": "poisson"}},
}


@functools.cache
def some(train: bool = True) -> Data:
    data = datasets.load("digits", train)
    return Data("digits", data.inputs[:150], data.labels[:150], 10)


def make_loop(name: str, way: str = "plain", **more) -> Loop:
    """A loop at its beginning: two epochs of five steps, the last of them short."""
    rates = {"learning_rate": 0.02, "momentum": 0.9, "weight_decay": 1e-3, "decay_epochs": [1]}
    small = {"layers": [HIDDEN, {"synapses": "linear"}]}
    recipe = load("digits-fc").but(**({"network": small, "training": rates} | WAYS[way]))
    rule, optimizer, scheduler = prepare(recipe, name, 0, some(), "cpu")
    return Loop(rule, some(), optimizer, epochs=2, batch_size=32, scheduler=scheduler, test=some(False), **more)


class Left(Exception):
    """Ends a loop as a signal would."""


def run_to(loop: Loop, step: int) -> None:
    def leave(outcome) -> None:
        if loop.done == step:
            raise Left

    loop.after_step = leave
    with pytest.raises(Left):
        list(loop.run())


def same(a, b, place="state") -> None:
    """The same tables, numbers and tensors, bit for bit; a NaN is a NaN."""
    assert type(a) is type(b), place
    if isinstance(a, torch.Tensor):
        assert (a.shape, a.dtype) == (b.shape, b.dtype), place
        assert a.detach().numpy().tobytes() == b.detach().numpy().tobytes(), place
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), place
        for key in a:
            if key != "seconds":
                same(a[key], b[key], f"{place}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), place
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{place}.{i}")
    else:
        assert a == b or (math.isnan(a) and math.isnan(b)), place


def without_seconds(state: dict) -> dict:
    return state | {"history": [row[:4] for row in state["history"]]}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
def test_every_rule_goes_on_bit_for_bit(name, way, tmp_path):
    try:
        whole = make_loop(name, way)
        list(whole.run())
    except EdgepepError as error:
        pytest.skip(f"the rule refuses such a network: {error}")
    broken, again = make_loop(name, way), make_loop(name, way)
    run_to(broken, 8)  # in the middle of the second epoch
    states.write(tmp_path, 8, broken.state_dict())
    again.load_state_dict(states.read(states.found(tmp_path)[0], 1 << 24))
    same(again.state_dict(), broken.state_dict())
    list(again.run())
    same(without_seconds(again.state_dict()), without_seconds(whole.state_dict()))


def test_a_state_kept_between_epochs_and_before_an_evaluation():
    whole = make_loop("pepita")
    list(whole.run())
    for moment in ("between", "after"):
        broken = make_loop("pepita")
        if moment == "after":
            next(broken.run())
        else:
            broken.between = lambda: (_ for _ in ()).throw(Left)
            with pytest.raises(Left):
                next(broken.run())
        again = make_loop("pepita")
        again.load_state_dict(broken.state_dict())
        list(again.run())
        same(without_seconds(again.state_dict()), without_seconds(whole.state_dict()))


def test_other_optimizers_and_callbacks_go_on_too():
    def make():
        loop = make_loop("pepita", before_step=Diagnostics(3))
        for layer in loop.rule.network.chain:
            layer.updater = None
        loop.optimizer = torch.optim.AdamW(loop.rule.network.parameters(), 1e-3)
        loop.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(loop.optimizer, 2)
        return loop

    whole, broken, again = make(), make(), make()
    list(whole.run())
    run_to(broken, 7)
    again.load_state_dict(broken.state_dict())
    list(again.run())
    same(without_seconds(again.state_dict()), without_seconds(whole.state_dict()))
    assert [step for step, _ in again.before_step.history] == [10]


def test_global_random_numbers_go_on():
    drawn = []

    def draw(*_):
        import random

        import numpy as np

        drawn.append((torch.rand(()).item(), random.random(), np.random.rand()))  # noqa: NPY002

    make_loop("pepita")
    whole = make_loop("pepita", before_step=draw)
    broken = make_loop("pepita", before_step=draw)
    start = torch.get_rng_state()
    run_to(broken, 4)
    kept = broken.state_dict()
    list(broken.run())
    expected, drawn[:] = drawn[4:], []
    torch.set_rng_state(start)
    whole.load_state_dict(kept)
    list(whole.run())
    assert drawn == expected


def test_responses_of_other_rows_are_not_taken_up():
    broken, again = make_loop("pepita"), make_loop("pepita")
    run_to(broken, 3)
    state = broken.state_dict()
    state["rule"]["projection.codes"] = -state["rule"]["projection.codes"]
    again.load_state_dict(state)
    run_to(again, 4)
    (followed,) = again.optimizer._followed.values()
    torch.testing.assert_close(followed.response, followed.rows @ again.rule.network.chain[0].synapses.weight.t())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epoch": 7}, "cannot be"),
        ({"epoch": "1"}, "epoch is a str"),
        ({"step": 6}, "cannot be"),
        ({"seen": 3}, "cannot be"),
        ({"history": [[1, 2.0]]}, "cannot be"),
        ({"total": torch.zeros(3)}, "total"),
        ({"rule": {}}, "does not fit"),
        ({"optimizer": {"state": {}, "param_groups": [], "followed": {}}}, "does not fit"),
        ({"optimizer": None}, "does not fit"),
        ({"scheduler": {}}, "scheduler has other entries"),
        ({"random": {}}, "random"),
    ],
)
def test_states_that_cannot_be(change, words):
    broken = make_loop("pepita")
    run_to(broken, 3)
    with pytest.raises(RunError, match=words):
        make_loop("pepita").load_state_dict(broken.state_dict() | change)


def test_velocities_of_another_shape_are_refused():
    broken = make_loop("pepita", "integer weights")
    run_to(broken, 3)
    state = broken.state_dict()
    state["optimizer"]["state"][0]["velocity_codes"] = torch.zeros(3, 3)
    with pytest.raises(RunError, match="velocity_codes"):
        make_loop("pepita", "integer weights").load_state_dict(state)


RECIPE = load("digits-fc").but(network={"layers": [HIDDEN, {"synapses": "linear"}]})


def go(out, stop_at=0, recipe=RECIPE, said=None, **policy):
    """Train two epochs of 45 steps, stopping after so many calls of `stop`; True if it came to its end."""
    calls = iter(range(1, 1000))
    stop = (lambda: 15 if next(calls) >= stop_at else 0) if stop_at else None
    tell = None if said is None else said.append
    try:
        list(train(recipe, epochs=2, out=out, policy=Policy(stop=stop, tell=tell, **policy)))
    except EdgepepError as error:
        if getattr(error, "signal", 0):
            return False
        raise
    return True


def test_a_run_directory_goes_on_and_is_finished_once(tmp_path):
    assert go(tmp_path / "whole")
    for step in (20, 30, 25):
        assert not go(tmp_path / "run", step)
    said = []
    assert go(tmp_path / "run", said=said)
    assert len(said) == 1
    assert "going on from state-0000001" not in said[0]
    assert "epoch 2" in said[0]
    ends = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("run", "whole")]
    assert ends[0] == ends[1]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert checkpoint.read_about(tmp_path / "run")["finished"]
    assert not states.found(tmp_path / "run")
    with pytest.raises(RunError, match="exists already, and its run is finished"):
        go(tmp_path / "run")


def test_what_may_not_go_on(tmp_path):
    assert not go(tmp_path / "run", 20)
    other = RECIPE.but(training={"learning_rate": 0.05})
    with pytest.raises(RunError, match=r"asked something else: recipe.training.learning_rate is .* there, 0.05 here"):
        go(tmp_path / "run", recipe=other)
    with pytest.raises(RunError, match="there is no run"):
        go(tmp_path / "none", resume=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(RunError, match="is no run"):
        go(tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    for path in states.found(tmp_path / "run"):
        path.rename(tmp_path / "mine" / path.name)
    shutil.rmtree(tmp_path / "run")
    assert not go(tmp_path / "run", 3, recipe=other)
    for path in (tmp_path / "mine").glob("state-*"):
        shutil.copy(path, tmp_path / "run")
    said = []
    assert go(tmp_path / "run", recipe=other, said=said)
    assert "state of another run" in said[0]


def test_one_process_at_a_time(tmp_path):
    first = train(RECIPE, epochs=2, out=tmp_path / "run", policy=Policy())
    next(first)
    with pytest.raises(RunError, match="another process is training"):
        go(tmp_path / "run")
    first.close()
    assert go(tmp_path / "run")


def test_metrics_are_mended(tmp_path):
    assert not go(tmp_path / "run", 60)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "loss": 0.')
    assert go(tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]


def test_a_run_killed_before_its_first_state_begins_again(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".run.json.new").write_text("{")
    assert go(tmp_path / "run")


def test_saving_takes_its_turn(tmp_path, monkeypatch):
    kept = []
    write = states.write
    monkeypatch.setattr(states, "write", lambda folder, step, state: (kept.append(step), write(folder, step, state)))
    assert go(tmp_path / "a", save_steps=20)
    assert kept == [0, 20, 40, 60, 80]
    kept.clear()
    assert go(tmp_path / "b", save_every=0.0)
    assert kept == list(range(91))
    with pytest.raises(EdgepepError, match="save_every"):
        go(tmp_path / "c", save_every=-1.0)
    with pytest.raises(EdgepepError, match="on_divergence"):
        go(tmp_path / "c", on_divergence="go on")


def test_runs_of_older_versions_are_read(tmp_path):
    assert go(tmp_path / "run")
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    del about["format"], about["sha256"], about["finished"]
    (tmp_path / "run" / "run.json").write_text(json.dumps(about))
    from safetensors.torch import load_file, save_file

    save_file(load_file(tmp_path / "run" / "weights.safetensors"), tmp_path / "run" / "weights.safetensors")
    assert checkpoint.read(tmp_path / "run").rule == "pepita"
