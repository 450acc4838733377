"""Recipes, their networks, and what is known of them."""

import math
import subprocess
import sys

import pytest
import torch

from edgepep import RecipeError, load, models
from edgepep.network import Network


@pytest.mark.parametrize("name", models.names())
def test_every_recipe_builds_and_takes_every_rule_it_names(name):
    recipe = load(name)
    network = recipe.build()
    for rule in (recipe.rule, *recipe.rules):
        recipe.make_rule(network, rule)
    assert recipe.source
    again = models.from_table(recipe.table(), name)
    assert again == recipe


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("mnist-fc", 813_056),
        ("cifar10-fc", 3_155_968),
        ("cifar100-fc", 3_248_128),
        ("mnist-conv", 46_880),
        ("cifar10-conv", 65_120),
        ("cifar100-conv", 629_600),
    ],
)
def test_the_papers_networks_have_the_papers_size(name, weights):
    assert sum(p.numel() for p in load(name).build().parameters()) == weights
    assert load(name).reported("pepita") is not None


def test_initial_norms_are_those_of_the_authors_log():
    norms = [layer.synapses.weight.detach().norm().item() for layer in load("cifar10-fc").build().chain]
    assert norms == pytest.approx([45.24, 4.47], abs=0.05)


def test_feedback_has_the_authors_scale():
    recipe = load("mnist-fc")
    feedback = recipe.make_rule(recipe.build()).feedback
    bound = 0.05 * math.sqrt(6 / 784)
    assert feedback.shape == (10, 784)
    assert 0.99 * bound < feedback.abs().max() <= bound
    assert float(feedback.std()) == pytest.approx(0.002525, rel=0.03)


def test_precision_and_time_are_transformations():
    base = load("digits-fc")
    assert base.quantized(bits=4).precision.weight_bits == 4
    assert base.spiking(steps=7).build()(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    assert base.quantized(8).spiking(5).build()(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    assert load("mnist-fc").quantized(8).reported("pepita") is None
    assert load("mnist-fc-int8").reported("pepita") is None
    assert load("mnist-fc").but(dataset="digits").reported("pepita") is None
    assert load("mnist-fc").but(training={"epochs": 3}).reported("pepita") is not None
    with pytest.raises(RecipeError, match=r"quantized\.weight_bits"):
        base.quantized(bits=0)


def test_the_seed_decides_the_weights_and_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    a, b, c = (load("digits-fc").build(seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    first = [n.chain[0].synapses.weight for n in (a, b, c)]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])


def test_residual_sums_read_earlier_layers():
    from torch import nn

    from edgepep import EdgepepError, Layer

    def layer():
        return Layer(nn.Linear(4, 4))

    a, b, c = layer(), layer(), layer()
    x = torch.randn(3, 4)
    network = Network([a, b, c], sources=[None, None, (0, 1)])
    first = a(x).post
    torch.testing.assert_close(network(x), c(first + b(first).post).post)
    with pytest.raises(EdgepepError, match="layer 1"):
        Network([layer(), layer()], sources=[None, (1,)])
    with pytest.raises(EdgepepError, match="named twice"):
        Network([layer(), layer()], sources=[None, (0, 0)])


def test_importing_edgepep_does_not_import_torch_and_help_imports_little():
    code = "import edgepep.cli, sys; sys.exit(bool({'torch', 'numpy', 'rich', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
