"""What each rule reaches on real data: better than frozen hidden layers, and as well as it should."""

import statistics

import pytest

from edgepep import datasets, load, plugins, rules
from edgepep.build import rule_class
from edgepep.training import evaluate, fit, prepare

NAMES = plugins.in_package(rules)
LEARNING = [name for name in NAMES if rule_class(name).source != "control"]

# Test accuracy in percent after three epochs of 784-256-128-10 on MNIST that each rule should reach: a single run of
# an independent implementation, minus one point.
THREE_EPOCHS = {
    "backprop": 95.92,
    "frozen_hidden": 81.73,
    "last_layer": 81.73,
    "feedback_alignment": 92.77,
    "usf": 95.08,
    "brsf": 94.65,
    "frsf": 94.39,
    "dfa": 93.19,
    "drtp": 88.37,
    "kolen_pollack": 95.35,
    "weight_mirror": 95.95,
    "information_alignment": 92.29,
    "symmetric_alignment": 95.81,
    "activation_alignment": 95.21,
    "pepita": 93.69,
    "mempepita": 93.69,
    "forward_forward": 91.33,
}


def reached(recipe, rule, seed, train, test):
    made, optimizer, scheduler = prepare(load(recipe), rule, seed, train, "cpu")
    settings = load(recipe).settings(rule)
    for _ in fit(
        made, train, optimizer, epochs=settings.epochs, batch_size=settings.batch_size, seed=seed, scheduler=scheduler
    ):
        pass
    return evaluate(made, test)


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNING)
def test_beats_frozen_hidden_layers_on_the_digits(name):
    train, test = datasets.load("digits", True), datasets.load("digits", False)
    own, control = (
        [reached("digits-fc", rule, seed, train, test) for seed in range(3)] for rule in (name, "frozen_hidden")
    )
    print(f"\n{name}: {statistics.mean(own):.2f} ± {statistics.stdev(own):.2f}, frozen {statistics.mean(control):.2f}")
    assert all(a > b for a, b in zip(own, control, strict=True))


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("name", NAMES)
def test_three_epochs_of_mnist(name, mnist):
    accuracy = reached("mnist-mlp", name, 0, *mnist)
    print(f"\n{name}: {accuracy:.2f}")
    assert accuracy >= THREE_EPOCHS.get(name, 90.0)
