"""Small networks that together use every kernel of the C kit, and steps of them in torch and in C."""

import copy
from itertools import pairwise

import torch
from torch import nn

from edgepep import InPlaceSGD, Layer, Network
from edgepep.build import rule_class
from edgepep.c99 import plan, save
from edgepep.c99.host import Host
from edgepep.integer_weights import with_integer_weights
from edgepep.neurons.normalise import Normalise
from edgepep.synapses import PaddedConv2d

RULES = ["pepita", "mempepita", "dfa", "drtp", "local_heads", "last_layer", "backprop"]
CLASSES = 3


def mlp(depth=2, width=9):
    sizes = [6, *[width] * depth]
    hidden = [Layer(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(sizes)]
    return Network([*hidden, Layer(nn.Linear(width, CLASSES, bias=False))]), (6,)


def conv(depth=2):
    """Strides, dilation, uneven padding, max pooling that leaves a row and a column out."""
    layers = [Layer(nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 0)), nn.ReLU())]
    layers += [Layer(nn.Conv2d(4, 4, 3, padding=2, dilation=2, bias=False), nn.ReLU()) for _ in range(depth - 2)]
    layers += [Layer(PaddedConv2d(4, 6, 2, pads=(0, 1, 1, 0)), nn.ReLU(), nn.MaxPool2d(2))]
    flat = nn.Sequential(nn.MaxPool2d((1, 2)), nn.Flatten())
    return Network([*layers, Layer(nn.Linear(24, CLASSES), None, flat)]), (2, 9, 10)


def depthwise():
    """Depthwise and grouped kernels, mean pooling of the input and before the readout."""
    layers = [
        Layer(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)),
        Layer(nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.ReLU()),
        Layer(nn.Conv2d(4, 6, 1, groups=2), nn.ReLU()),
        Layer(nn.Linear(6, CLASSES), None, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())),
    ]
    return Network(layers), (2, 8, 6)


def residual():
    """A sum like ResNet's, a convolution that reads a sum, an answer that three layers read, a sum of three."""
    layers = [
        Layer(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU()),
        Layer(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()),
        Layer(nn.Conv2d(3, 3, 3, padding=1)),
        Layer(nn.Identity(), nn.ReLU()),
        Layer(nn.Conv2d(3, 3, 1), nn.ReLU()),
        Layer(nn.Identity()),
        Layer(nn.Linear(12, CLASSES), None, nn.Sequential(nn.MaxPool2d(2), nn.Flatten())),
    ]
    return Network(layers, sources=[None, None, None, (0, 2), (0, 3), (0, 3, 4), None]), (1, 4, 4)


def normed():
    """A first layer that only prepares the input, normalisation of every kind, one of what has been pooled."""
    layers = [
        Layer(nn.Identity(), None, nn.Sequential(nn.MaxPool2d((1, 2)), Normalise("layer"))),
        Layer(nn.Conv2d(2, 4, 3), nn.ReLU(), Normalise()),
        Layer(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Sequential(nn.AvgPool2d(2), Normalise("layer"))),
        Layer(nn.Linear(24, 8), nn.ReLU(), nn.Sequential(nn.Flatten(), Normalise("l2"))),
        Layer(nn.Linear(8, CLASSES), None, Normalise()),
    ]
    return Network(layers), (2, 6, 16)


NETWORKS = {"mlp": mlp, "conv": conv, "depthwise": depthwise, "residual": residual, "normed": normed}


def made(kind, integer=False, **options):
    """A network of a kind, and data for it; the same every time."""
    torch.manual_seed(3)
    network, shape = NETWORKS[kind](**options)
    with torch.no_grad():
        for parameter in network.parameters():  # lively enough for every layer to learn in a few steps
            parameter.mul_(2) if parameter.dim() > 1 else parameter.fill_(0.1)
    if integer:
        for place, layer in enumerate(network.chain):
            if hasattr(layer.synapses, "weight"):
                layer.synapses = with_integer_weights(layer.synapses, 8, seed=5)
                layer.synapses.place = place
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(6, *shape, generator=generator)
    return network, x, torch.randint(CLASSES, (6,), generator=generator)


def ruled(network, x, name, **options):
    """A rule of a name; PEPITA's modulation strong enough to be seen, heads that learn fast, by plain SGD as in C."""
    own = {"local_heads": {"head_rate": 0.3, "head_momentum": 0.0, "decay": 0.05, "cells": 3}}.get(name, {})
    own = {"feedback_scale": 0.3} if "pepita" in name else own
    return rule_class(name)(network, x, **(own | options))


def exported(network, x, y, rule, path, **options):
    """Plan, and what it makes, compiled for this machine."""
    planned = plan(network, x, rule, **options)
    save(planned, path, samples=list(zip(x, y.tolist(), strict=True)))
    return planned, Host(path, "-O0")


def stepped(rule, x, y, rate):
    """A copy of the rule after one step a sample in torch; it stays as it is."""
    rule = copy.deepcopy(rule).eval()
    InPlaceSGD(rule.network, lr=rate)
    for i in range(len(x)):
        rule(x[i : i + 1], y[i : i + 1])
    return rule


def trained(rule, x, y, rate):
    """The network of `stepped`."""
    return stepped(rule, x, y, rate).network
