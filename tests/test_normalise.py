"""Normalisations that prepare what a layer reads, and weights that begin orthogonal."""

import pytest
import torch
from torch.nn.functional import layer_norm, normalize, rms_norm

from edgepep import EdgepepError, models
from edgepep.neurons import Normalise
from edgepep.synapses import conv, initialise_, linear, preparation

IMAGES = (3, 5, 4)


@pytest.mark.parametrize(
    ("word", "as_torch"),
    [
        ("layernorm", lambda x: layer_norm(x, IMAGES)),
        ("rmsnorm", lambda x: rms_norm(x, IMAGES)),
        ("l2norm", lambda x: normalize(x.flatten(1)).view_as(x)),
    ],
)
def test_each_sample_is_normalised_by_itself(word, as_torch):
    x = 3 * torch.randn(6, *IMAGES) + 2
    normalise = preparation(word)
    torch.testing.assert_close(normalise(x), as_torch(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(normalise(x[2:3]), normalise(x)[2:3])
    assert not normalise(torch.zeros(2, *IMAGES)).any()


def test_other_words_and_kinds_are_refused():
    with pytest.raises(ValueError, match="'rmsnorm', 'l2norm', 'layernorm'"):
        preparation("batchnorm")
    with pytest.raises(EdgepepError, match="'group'"):
        Normalise("group")


@pytest.mark.parametrize(
    "synapses", [linear(24, 6, bias=False), linear(6, 24, bias=False), conv(3, 8, 3, bias=False)], ids=str
)
def test_orthogonal_weights_have_hes_variance(synapses):
    torch.manual_seed(0)
    initialise_(synapses, "orthogonal")
    weight = synapses.weight.detach().flatten(1)
    fan_in = weight.shape[1]
    assert weight.square().mean() == pytest.approx(2 / fan_in, rel=1e-5)
    short = weight if len(weight) <= fan_in else weight.t()
    gram = short @ short.t()
    torch.testing.assert_close(gram, gram.diagonal().mean() * torch.eye(len(short)))


def test_a_recipe_may_ask_for_both():
    recipe = models.load("digits-fc").but(
        network={
            "initialisation": "orthogonal",
            "layers": [
                {"prepare": ["flatten", "layernorm"], "synapses": "linear", "features": 8},
                {"prepare": ["rmsnorm"], "synapses": "linear"},
            ],
        }
    )
    network = recipe.build()
    first, second = network.stream(torch.rand(4, 1, 8, 8))
    torch.testing.assert_close(first.pre.mean(1), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(second.pre.square().mean(1), torch.ones(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(first.post.norm(dim=1) / second.pre.norm(dim=1), first.post.square().mean(1).sqrt())
