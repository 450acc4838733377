"""The training step as an ONNX graph: onnxruntime learns as torch does, for every kind of layer and many rules."""

import copy
import hashlib
import json
from pathlib import Path

import onnx
import pytest
import torch

from benchmarks.ort_kernels import OrtKernels
from edgepep import ExportError, datasets, learning_files, load
from edgepep.learning_files import INFERENCE, STATE, STEP, STEPS
from edgepep.learning_graph import Settings, TrainingStep
from edgepep.onnx_files import Runner
from edgepep.phases import draws
from edgepep.synapses import calibrate

DIGITS = datasets.load("digits", True)
FLAT = {"prepare": ["maxpool 2", "flatten"], "synapses": "linear", "features": "classes"}
CONV = {"synapses": "conv", "features": 4, "kernel": 3}
DEEP = [
    CONV | {"stride": 2, "padding": "same"},
    CONV | {"groups": 4, "padding": 1, "reads": [0]},
    FLAT | {"reads": [0, 1]},
]
NORMED = [CONV | {"norm": "batch"}, {"synapses": "linear", "prepare": ["avgpool 4", "flatten"]}]
DROPPED = [{"prepare": ["flatten"], "synapses": "linear", "features": 24, "dropout": 0.2}, FLAT | {"prepare": []}]
NETWORKS = {
    "mlp": {},
    "conv": {"network": {"layers": [CONV, FLAT]}},
    "strided, depthwise, residual": {"network": {"layers": DEEP}},
    "batch normalisation": {"network": {"layers": NORMED}},
    "dropout": {"network": {"layers": DROPPED}},
    "feedback drawn again": {"rules": {"pepita": {"storage": "seed"}}},
    "int8": {"quantized": {"weight_bits": 8}},
    "int4 codes": {"quantized": {"weight_bits": 4, "weights": "integer"}},
    "int8 codes": {"quantized": {"weight_bits": 8, "weights": "integer"}},
    "spiking": {"spiking": {"steps": 8}},
    "spiking, Poisson": {"spiking": {"steps": 8, "code": "poisson"}},
}
QUICK = ("mlp", "conv", "int4 codes", "spiking")
RULES = ["drtp", "feedback_alignment"]
SLOW_RULES = ["mempepita", "dfa", "last_layer", "frozen_hidden", "kolen_pollack", "weight_mirror", "usf", "f3", "spela"]
SLOW_RULES += ["forward_forward", "local_heads"]


def made(network="mlp", rule="pepita"):
    """A rule on a small network, untrained."""
    recipe = load("digits-fc").but(**NETWORKS[network])
    net = recipe.under(rule).build(0)
    calibrate(net, [DIGITS.take(slice(0, 64))[0]])
    return recipe.make_rule(net, rule, 0)


def write(folder, network="mlp", rule="pepita", momentum=0.9, steps=None):
    learner = made(network, rule)
    settings = Settings(momentum, weight_decay=1e-3, rates={"0": 2.0})
    return learner, settings, learning_files.save(learner, settings, 0.05, folder, DIGITS.take(slice(0, 640)), steps)


def read_state(folder):
    from safetensors.torch import load_file

    return load_file(Path(folder) / STATE)


def marked(names, quick):
    return [pytest.param(name, marks=[] if name in quick else [pytest.mark.slow]) for name in names]


@pytest.fixture(scope="module")
def mlp(tmp_path_factory):
    """Folder of the files of a small network, with three steps in one graph, the rule and its settings."""
    folder = tmp_path_factory.mktemp("mlp")
    learner, settings, _ = write(folder, steps=3)
    return folder, learner, settings


@pytest.mark.parametrize("network", marked(NETWORKS, QUICK))
def test_onnxruntime_learns_as_torch_does(tmp_path, network):
    _, _, learned = write(tmp_path, network)
    # normalisation divides by a deviation below 1, and the rounding of PEPITA's small differences with it
    assert learned.relative < (2e-5 if network == "batch normalisation" else 1e-5)
    assert learned.loss_difference < 1e-5
    model = onnx.load(tmp_path / STEP)
    assert [opset.domain for opset in model.opset_import] == [""]
    assert not model.functions
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    about = {p.key: p.value for p in model.metadata_props}
    assert about["edgepep.version"] == "1"
    assert about["edgepep.rule"] == "pepita"


@pytest.mark.parametrize("rule", marked(RULES + SLOW_RULES, RULES))
def test_other_rules(tmp_path, rule):
    _, _, learned = write(tmp_path, rule=rule)
    assert learned.relative < 1e-5


@pytest.mark.parametrize("network", ["conv", "batch normalisation"])
def test_errors_go_back_through_pooling_and_normalisation(tmp_path, network):
    _, _, learned = write(tmp_path, network, "feedback_alignment")
    assert learned.relative < 1e-5
    names = read_state(tmp_path)
    assert ("network.layers.0.neurons.0.norm.running_var" in names) == (network == "batch normalisation")


def test_the_graph_is_the_step_that_trains(mlp):
    """Steps of the graph end where the rule and torch's own SGD end."""
    folder, learner, settings = mlp
    learner = copy.deepcopy(learner)
    optimizer = torch.optim.SGD(
        [{"params": [p], "lr": 0.05 * rate} for p, rate in zip(learner.network.parameters(), (2.0, 1.0), strict=True)],
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    run, state = Runner(str(folder / STEP)), read_state(folder)
    for i in range(5):
        x, y = DIGITS.take(slice(32 * i, 32 * i + 32))
        optimizer.zero_grad()
        learner(x, y)
        optimizer.step()
        answers = run({"x": x, "target": y, "learning_rate": torch.tensor(0.05), **state})
        state = dict(zip([name.removeprefix("new.") for name in run.outputs[2:]], answers[2:], strict=True))
    for name, weight in learner.named_parameters():
        torch.testing.assert_close(state[name], weight.detach(), rtol=1e-4, atol=1e-6)
    infer = Runner(str(folder / INFERENCE))
    x = DIGITS.take(slice(0, 7))[0]
    answer = infer({"x": x, **{name: state[name] for name in infer.inputs[1:]}})[0]
    torch.testing.assert_close(answer, learner.network.eval()(x).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("network", ["mlp", "dropout"])
@pytest.mark.parametrize("rule", ["pepita", "mempepita", "feedback_alignment"])
def test_with_the_same_kernels_weights_are_the_same_to_the_last_bit(tmp_path, network, rule):
    """The graph is torch's step, operation by operation: only the order of sums within a product tells them apart."""
    learner, settings = made(network, rule), Settings(momentum=0.9)
    learning_files.save(learner, settings, 0.05, tmp_path, DIGITS.take(slice(0, 64)))
    step, kernels = TrainingStep(learner, settings, DIGITS.take(slice(0, 2))), OrtKernels()
    run = Runner(str(tmp_path / STEP), threads=1)
    ours, theirs = dict(step.state), dict(step.state)
    for x, y in list(DIGITS.in_order(64))[:20]:
        rate = torch.tensor(0.05)
        with torch.no_grad(), kernels:
            ours = dict(zip(ours, step(x, y, rate, *ours.values())[2:], strict=True))
        theirs = dict(zip(theirs, run({"x": x, "target": y, "learning_rate": rate, **theirs})[2:], strict=True))
    assert type(draws()) is int, "a traced step counts nothing"
    assert len(kernels.sessions) >= 2  # products and the softmax were indeed onnxruntime's
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("network", marked(["mlp", "int4 codes", "spiking"], ["mlp"]))
def test_several_steps_in_one_scan(mlp, tmp_path, network):
    folder = tmp_path
    if network == "mlp":
        folder, *_ = mlp
    else:
        write(folder, network, steps=3)
    one, three, state = Runner(str(folder / STEP)), Runner(str(folder / STEPS)), read_state(folder)
    x, y = DIGITS.take(slice(0, 48))
    given = {"x": x.view(3, 16, *x.shape[1:]), "target": y.view(3, 16), "learning_rate": torch.tensor(0.05)}
    at_once = dict(zip(three.outputs, three({**given, **state}), strict=True))
    for i in range(3):
        part = {"x": given["x"][i], "target": given["target"][i], "learning_rate": given["learning_rate"]}
        answers = dict(zip(one.outputs, one({**part, **state}), strict=True))
        assert torch.equal(answers["loss"], at_once["loss"][i])
        assert torch.equal(answers["logits"], at_once["logits"][i])
        state = {name: answers[f"new.{name}"] for name in state}
    assert all(torch.equal(state[name], at_once[f"new.{name}"]) for name in state)


def test_a_strength_is_taken_before_a_step_is_exported(tmp_path):
    recipe = load("digits-fc").but(rules={"pepita": {"strength": 0.05}})
    rule = recipe.make_rule(recipe.build(0), "pepita", 0)
    samples = DIGITS.take(slice(0, 64))
    with pytest.raises(ExportError, match="let the rule learn from one, then export it"):
        learning_files.save(rule, Settings(), 0.05, tmp_path / "fresh", samples)
    rule(*samples)
    assert learning_files.save(rule, Settings(), 0.05, tmp_path / "begun", samples).relative < 1e-5


def test_what_changes_is_the_state():
    step = TrainingStep(made("dropout"), Settings(), DIGITS.take(slice(0, 2)))
    assert sorted(step.state) == [
        "network.layers.0.neurons.1.step",
        "network.layers.0.synapses.weight",
        "network.layers.1.synapses.weight",
    ]
    assert list(TrainingStep(made(rule="frozen_hidden"), Settings(0.9), DIGITS.take(slice(0, 2))).state) == [
        "network.layers.1.synapses.weight",
        "velocity.network.layers.1.synapses.weight",
    ]


def test_nothing_of_the_rule_is_changed(mlp):
    _, learner, _ = mlp
    fresh = made().state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in learner.state_dict().items())
    assert all(layer.updater is None for layer in learner.network.chain)


def test_the_state_says_its_version_and_its_hash(mlp):
    content = (mlp[0] / STATE).read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    about = json.loads(content[8:end])["__metadata__"]
    hashed = content.replace(about["sha256"].encode(), b"0" * 64)
    assert about == {"edgepep.version": "1", "sha256": hashlib.sha256(hashed).hexdigest()}


def test_what_cannot_be_written_is_said(tmp_path):
    samples = DIGITS.take(slice(0, 100))
    with pytest.raises(ExportError, match="training step of Backprop"):
        learning_files.save(made(rule="backprop"), Settings(), 0.1, tmp_path / "b", samples)
    assert not (tmp_path / "b").exists()
    with pytest.raises(ExportError, match="steps is 0"):
        learning_files.save(made(), Settings(), 0.1, tmp_path, samples, steps=0)
    with pytest.raises(ExportError, match="3 samples"):
        learning_files.save(made(), Settings(), 0.1, tmp_path, DIGITS.take(slice(0, 3)))
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="cannot write"):
        learning_files.save(made(), Settings(), 0.1, tmp_path / "file", samples)
