"""What several tests need: small networks of every kind, and real data where they are on disk."""

import os
from itertools import pairwise

import pytest
import torch
from torch import nn

from edgepep import Dropout, Layer, Leaky, Network, Rate, Repeat, datasets
from edgepep.synapses import Quantiser, calibrate, conv, linear

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
KINDS = ["plain", "quantized", "spiking", "quantized-spiking"]
SHAPES = {"mlp": (12,), "conv": (2, 6, 6), "residual": (2, 6, 6)}


def make_network(kind: str = "plain", sizes=(12, 16, 14, 3), dropout: float = 0.0, bias: bool = False) -> Network:
    """A narrow network of linear layers; weights depend on nothing but the kind."""
    torch.manual_seed(1)
    bits = 8 if "quantized" in kind else None
    synapses = [linear(inputs, outputs, bias=bias, bits=bits) for inputs, outputs in pairwise(sizes)]
    return _layered(kind, synapses, [None] * len(synapses), None, dropout, (sizes[0],))


def make_shaped(kind: str, shape: str) -> Network:
    """A narrow network of a kind: fully connected, convolutional, or depthwise with a residual sum."""
    if shape == "mlp":
        return make_network(kind, dropout=0.1)
    torch.manual_seed(1)
    bits = 8 if "quantized" in kind else None
    flat = [nn.Flatten()]
    if shape == "conv":
        synapses = [
            conv(2, 4, 3, padding=1, bias=True, bits=bits),
            conv(4, 6, 3, stride=2, bias=False, bits=bits),
            linear(6, 3, bias=True, bits=bits),
        ]
        return _layered(kind, synapses, [None, [nn.MaxPool2d(2)], flat], None, 0.0, SHAPES[shape])
    synapses = [
        conv(2, 4, 3, padding=1, bias=False, bits=bits),
        conv(4, 4, 3, padding=2, dilation=2, groups=4, bias=False, bits=bits),
        linear(144, 3, bias=False, bits=bits),
    ]
    return _layered(kind, synapses, [None, None, flat], [None, (0,), (0, 1)], 0.0, SHAPES[shape])


def _layered(kind, synapses, prepares, sources, dropout, shape) -> Network:
    spiking, layers = "spiking" in kind, []
    for i, (own, prepare) in enumerate(zip(synapses, prepares, strict=True)):
        last = i == len(synapses) - 1
        answer = nn.Identity() if last else Leaky() if spiking else nn.ReLU(inplace=i > 0 and sources is None)
        neurons = nn.Sequential(answer, Dropout(dropout)) if dropout and not last else answer
        steps = [Rate()] if spiking and last else []
        steps += prepare or []
        steps += [Quantiser(8)] if "quantized" in kind and not spiking and i else []
        decode = Rate() if spiking and not last else None
        layers.append(
            Layer(own, neurons, nn.Sequential(*steps) if len(steps) > 1 else steps[0] if steps else None, decode)
        )
    network = Network(layers, Repeat(6) if spiking else None, sources)
    calibrate(network, [torch.randn(32, *shape) for _ in range(3)])
    return network


def make_batch(shape: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Random inputs and classes for a network of a shape."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(20, *SHAPES[shape], generator=generator), torch.randint(3, (20,), generator=generator)


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(20, 12, generator=generator), torch.randint(3, (20,), generator=generator)


@pytest.fixture(scope="session")
def mnist() -> tuple[datasets.Data, datasets.Data]:
    folder = datasets.data_folder()
    if not any((folder / "MNIST" / "raw").glob("train-images*")):
        pytest.skip(f"MNIST is not in {folder}; name its folder in $EDGEPEP_DATA")
    return datasets.load("mnist", True), datasets.load("mnist", False)
