"""What several tests need: small networks of every kind, and real data where they are on disk."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from edgepep import Dropout, Layer, Leaky, Network, Rate, Repeat, datasets
from edgepep.synapses import Quantiser, calibrate, linear

torch.set_num_threads(2)
KINDS = ["plain", "quantized", "spiking", "quantized-spiking"]


def make_network(kind: str = "plain", sizes=(12, 16, 14, 3), dropout: float = 0.0, bias: bool = False) -> Network:
    """A narrow network of linear layers; weights depend on nothing but the kind."""
    torch.manual_seed(1)
    bits = 8 if "quantized" in kind else None
    spiking = "spiking" in kind
    layers = []
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        last = i == len(sizes) - 2
        answer = nn.Identity() if last else Leaky() if spiking else nn.ReLU(inplace=i > 0)
        neurons = nn.Sequential(answer, Dropout(dropout)) if dropout and not last else answer
        prepare = Rate() if spiking and last else Quantiser(8) if bits and not spiking and i else None
        layers.append(
            Layer(
                linear(inputs, outputs, bias=bias, bits=bits),
                neurons,
                prepare,
                Rate() if spiking and not last else None,
            )
        )
    network = Network(layers, Repeat(6) if spiking else None)
    calibrate(network, [torch.randn(32, sizes[0]) for _ in range(3)])
    return network


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(20, 12, generator=generator), torch.randint(3, (20,), generator=generator)


@pytest.fixture(scope="session")
def mnist() -> tuple[datasets.Data, datasets.Data]:
    folder = datasets.data_folder()
    if not (folder / "MNIST" / "raw").is_dir():
        pytest.skip(f"MNIST is not in {folder}; name its folder in $EDGEPEP_DATA")
    return datasets.load("mnist", True), datasets.load("mnist", False)
