"""C at the edges: padding around single taps, layers with rates of their own, sizes that do not fit."""

import json

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from edgepep import EdgepepError, ExportError, InPlaceSGD, Layer, Network
from edgepep.c99 import plan, read
from edgepep.c99.host import compiler
from edgepep.cli import app
from edgepep.synapses import PaddedConv2d
from tests.c99_networks import exported, made, ruled, trained

compiled = pytest.mark.skipif(
    compiler() is None, reason="there is no C compiler here (install gcc, or name one in $CC)"
)


@compiled
@pytest.mark.parametrize("name", ["pepita", "dfa", "backprop"])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_single_tap_in_the_padding_reads_nothing(name, stride, tmp_path):
    torch.manual_seed(3)
    conv = nn.Conv2d(2, 4, 1, stride, padding=(1, 2), groups=2)
    width = conv(torch.rand(1, 2, 4, 4)).numel()
    network = Network([Layer(conv, nn.ReLU()), Layer(nn.Linear(width, 3), None, nn.Flatten())])
    x, y = torch.rand(6, 2, 4, 4), torch.randint(3, (6,))
    rule = ruled(network, x, name)
    _, host = exported(network, x, y, rule, tmp_path / "c")
    with torch.no_grad():
        torch.testing.assert_close(host.infer(x[0]), network(x[:1])[0])
    for sample, target in zip(x, y.tolist(), strict=True):
        host.learn(sample, target, 0.05)
    ours = trained(rule, x, y, 0.05)
    assert read(network, x, host.save()) == len(x)
    for mine, its in zip(ours.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(mine, its, atol=1e-6, rtol=1e-5)


@compiled
@pytest.mark.parametrize("name", ["pepita", "drtp", "backprop"])
def test_layers_learn_at_their_own_rates(name, tmp_path):
    network, x, y = made("conv", depth=3)
    rule, rates = ruled(network, x, name), {"0": 0.0, "1": 0.5}
    planned, host = exported(network, x, y, rule, tmp_path / "c", rates=rates)
    assert planned.weights < plan(network, x, rule).weights  # what rests is in flash
    for sample, target in zip(x, y.tolist(), strict=True):
        host.learn(sample, target, 0.02)
    before = [p.clone() for p in network.parameters()]
    InPlaceSGD(network, 0.02, rates=rates)
    for i in range(len(x)):
        rule(x[i : i + 1], y[i : i + 1])
    theirs, *_ = made("conv", depth=3)
    read(theirs, x, host.save())
    for mine, its in zip(network.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, its, atol=1e-6, rtol=1e-5)
    assert not torch.equal(before[2], network.chain[1].synapses.weight)


@compiled
def test_a_run_is_exported_with_its_rates(tmp_path):
    recipe = tmp_path / "slow.toml"
    recipe.write_text('base = "digits-fc"\nsource = "a test"\n[training]\nrates = { "0" = 0.0 }\n')
    weights = []
    for name in (str(recipe), "digits-fc"):
        run, folder = tmp_path / f"run-{len(weights)}", tmp_path / f"c-{len(weights)}"
        for line in (["train", name, "--rule", "pepita", "--epochs", "1"], ["export", str(run), "--format", "c"]):
            outcome = CliRunner().invoke(app, [*line, "--out", str(run if line[0] == "train" else folder)])
            assert outcome.exit_code == 0, outcome.output
        weights.append(json.loads((folder / "predicted.json").read_text())["weights_bytes"])
    assert weights[0] < weights[1]


def test_what_cannot_be_in_c_is_refused_by_name():
    network, x, _ = made("mlp")
    with pytest.raises(EdgepepError, match="no layer is called '9'"):
        plan(network, x, ruled(network, x, "pepita"), rates={"9": 1.0})
    network.chain[0].synapses.bias.requires_grad_(False)
    with pytest.raises(ExportError, match="layer 0: its weights learn or its bias, not both"):
        plan(network, x, ruled(network, x, "pepita"))
    plan(network, x)  # nothing learns
    flat = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for layers, shape, said in (
        ([Layer(nn.Linear(70_000, 2))], (70_000,), "a size above 65535"),
        (
            [Layer(nn.Conv2d(1, 2, 1), nn.ReLU()), Layer(nn.Linear(2, 2), None, flat)],
            (1, 300, 2),
            "windows wider",
        ),
        (
            [Layer(PaddedConv2d(1, 2, 3, pads=(0, -1, 0, -1)), nn.ReLU()), Layer(nn.Linear(18, 2), None, nn.Flatten())],
            (1, 6, 6),
            "pads is",
        ),
    ):
        with pytest.raises(ExportError, match=said):
            plan(Network(layers), torch.rand(2, *shape))
