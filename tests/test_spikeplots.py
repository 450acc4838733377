"""Pictures of spikes: what is drawn is what the network did."""

import io
import sys

import pytest
import torch
from torch import nn

from edgepep import EdgepepError, Layer, Leaky, Network, Rate, Repeat, RLeaky, Synaptic, load, spikeplots
from edgepep.neurons import Dropout

STEPS = 12


@pytest.fixture
def network():
    torch.manual_seed(0)
    share = torch.linspace(0.2, 0.6, 6).view(6, 1, 1)
    layers = [
        Layer(nn.Conv2d(1, 6, 3), Synaptic(0.5, 0.8, share), decode=Rate(), name="conv"),
        Layer(nn.Linear(216, 20), nn.Sequential(Leaky(0.9, 0.3), Dropout(0.5, over_time=True)), nn.Flatten(), Rate()),
        Layer(nn.Linear(20, 10), None, Rate()),
    ]
    return Network(layers, Repeat(STEPS))


@pytest.fixture
def x():
    return torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def spikes_of(network, x):
    """Spikes [time, batch, neurons] of both layers."""
    with torch.no_grad():
        return [activity.post.flatten(2) for activity in list(network.eval().stream(x))[:2]]


def test_a_raster_has_a_mark_for_each_spike(network, x):
    figure = spikeplots.raster(network, x, sample=3)
    for axes, spikes in zip(figure.axes, spikes_of(network, x[3:4]), strict=True):
        (marks,) = axes.collections
        steps, neurons = (torch.as_tensor(v).long() for v in marks.get_offsets().data.T)
        drawn = torch.zeros_like(spikes[:, 0]).index_put_((steps - 1, neurons), torch.ones(len(steps)))
        assert len(steps) == int(spikes.sum()) > 0
        assert torch.equal(drawn, spikes[:, 0])
        assert f"{len(steps)} spikes" in axes.get_title()
        assert axes.get_ylabel() == "neuron"
    assert figure.axes[-1].get_xlabel() == "time step"
    assert "layer conv" in figure.axes[0].get_title()


@pytest.mark.parametrize("layer", [0, "conv", 1, "1"])
def test_lines_are_the_potentials_of_the_neurons_own_equation(network, x, layer):
    figure = spikeplots.membranes(network, x, (1, 7), layer, sample=2)
    i = 0 if layer in (0, "conv") else 1
    activity = list(network.eval().stream(x[2:3]))[i]
    population = network.chain[i].neurons if i == 0 else network.chain[i].neurons[0]
    state, potentials = population.rest(activity.current[0]), []
    for current in activity.current.detach():
        state, _ = population.advance(state, current)
        potentials.append(state[-1].flatten().clone())
    thresholds = torch.as_tensor(population.threshold).expand(activity.post[0].shape).flatten()
    for axes, n in zip(figure.axes, (1, 7), strict=True):
        line, threshold, fired = axes.lines
        assert torch.equal(torch.as_tensor(line.get_ydata()), torch.stack(potentials)[:, n])
        assert list(line.get_xdata()) == list(range(1, STEPS + 1))
        assert threshold.get_ydata()[0] == pytest.approx(float(thresholds[n]))
        times = (activity.post[:, 0].flatten(1)[:, n].nonzero().flatten() + 1).tolist()
        assert list(fired.get_xdata()) == times
        assert axes.get_ylabel() == "potential (no unit)"
        assert axes.get_ylim()[1] > max([*line.get_ydata(), *fired.get_ydata()])


def test_histograms_count_every_neuron_once(network, x):
    figure = spikeplots.rates(network, x, bins=7)
    for axes, spikes in zip(figure.axes, spikes_of(network, x), strict=True):
        rate = spikes.mean((0, 1))
        assert len(axes.patches) == 7
        assert sum(bar.get_height() for bar in axes.patches) == spikes.shape[2]
        edges = torch.tensor([bar.get_x() for bar in axes.patches])
        assert axes.patches[0].get_height() == (rate < edges[1]).sum()
        assert axes.lines[0].get_xdata()[0] == pytest.approx(float(rate.mean()), rel=1e-5)
        assert f"{int((rate == 0).sum())} of {len(rate)} silent" in axes.get_title()
    assert figure.axes[-1].get_xlabel() == "firing rate, spikes per neuron and time step"


def test_a_silent_network_can_be_drawn(network, x):
    for layer in network.chain[:2]:
        nn.init.zeros_(layer.synapses.weight)
        nn.init.zeros_(layer.synapses.bias)
    for figure in (spikeplots.raster(network, x), spikeplots.membranes(network, x), spikeplots.rates(network, x)):
        figure.savefig(io.BytesIO())


def test_accuracy_against_steps_draws_means_and_deviations():
    figure = spikeplots.accuracy_against_steps(
        {"one": {10: 60.0, 1: 20, 50: 70.0}, "seeds": {1: [10, 20], 10: [50, 54]}}
    )
    one, seeds = figure.axes[0].containers
    assert one.lines[0].get_xydata().tolist() == [[1, 20], [10, 60], [50, 70]]
    assert seeds.lines[0].get_xydata().tolist() == [[1, 15], [10, 52]]
    bars = seeds.lines[2][0].get_segments()
    assert bars[1][:, 1].tolist() == pytest.approx([52 - 8**0.5, 52 + 8**0.5])
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["1", "10", "50"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("time steps", "test accuracy, %")
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["one", "seeds"]
    assert len({line.get_linestyle() for line in (one.lines[0], seeds.lines[0])}) == 2
    with pytest.raises(EdgepepError, match="no results"):
        spikeplots.accuracy_against_steps({"one": {}})


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_nothing_is_cut_off_and_no_window_is_opened(network, x, suffix, tmp_path):
    shown = "matplotlib.pyplot" in sys.modules
    figures = [
        spikeplots.raster(network, x),
        spikeplots.membranes(network, x, (0,)),
        spikeplots.rates(network, x),
        spikeplots.accuracy_against_steps({"a": {1: 10.0, 100: 50.0}}),
    ]
    for figure in figures:
        figure.savefig(tmp_path / f"figure.{suffix}")
        assert (tmp_path / f"figure.{suffix}").stat().st_size > 1000
        width, height = figure.get_size_inches()
        box = figure.get_tightbbox()
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height
    assert ("matplotlib.pyplot" in sys.modules) == shown


def test_the_network_is_left_as_it_is(network, x):
    network.train()
    network.window = 5
    before = [(name, m.training, len(m._forward_hooks)) for name, m in network.named_modules()]
    windowed = spikeplots.rates(network, x)
    assert network.window == 5
    assert before == [(name, m.training, len(m._forward_hooks)) for name, m in network.named_modules()]
    network.window = None
    heights = [[bar.get_height() for bar in axes.patches] for axes in windowed.axes]
    assert heights == [[bar.get_height() for bar in axes.patches] for axes in spikeplots.rates(network, x).axes]


def test_recurrent_and_graded_populations(x):
    torch.manual_seed(0)
    first = Layer(nn.Linear(64, 16), RLeaky(0.9, nn.Linear(16, 16), graded_spikes_factor=-2.0), nn.Flatten(), Rate())
    network = Network([first, Layer(nn.Linear(16, 10), None, Rate())], Repeat(STEPS)).eval()
    with torch.no_grad():
        spikes = next(network.stream(x[:1])).post
    assert len(spikeplots.raster(network, x).axes[0].collections[0].get_offsets()) == spikes.count_nonzero() > 0
    assert spikeplots.rates(network, x).axes[0].lines[0].get_xdata()[0] > 0
    spikeplots.membranes(network, x)


def test_errors_name_what_there_is(network, x):
    with pytest.raises(EdgepepError, match="sample is 5; the batch has 5"):
        spikeplots.raster(network, x, sample=5)
    with pytest.raises(EdgepepError, match=r"no layer called '2' has spiking neurons. There are: conv, 1"):
        spikeplots.membranes(network, x, layer=2)
    with pytest.raises(EdgepepError, match=r"neurons are \[0, 20\]; name some from 0 to 19"):
        spikeplots.membranes(network, x, (0, 20), layer=1)
    with pytest.raises(EdgepepError, match="bins is 0"):
        spikeplots.rates(network, x, bins=0)
    with pytest.raises(EdgepepError, match="no spiking neurons"):
        spikeplots.raster(load("digits-fc").build(), x)
