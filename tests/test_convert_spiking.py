"""Networks as snnTorch's users write them."""

import copy

import pytest
import snntorch as snn
import torch
from snntorch import surrogate
from torch import nn

from edgepep import ConversionError, convert
from edgepep.build import rule_class
from edgepep.neurons import Alpha, Frames, Lapicque, Leaky, RLeaky, Spiking, Synaptic

T = 9


class Loop(nn.Module):
    """A step loop in the forward, as in snnTorch's tutorials."""

    def __init__(self, cell=lambda: snn.Leaky(0.9), frames=False, ends="stack"):
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(12, 16), cell()
        self.fc2, self.lif2 = nn.Linear(16, 4), snn.Leaky(0.9, threshold=0.1)
        self.frames, self.ends = frames, ends

    def forward(self, x):
        state = self.lif1.reset_mem()
        state = state if isinstance(state, tuple) else (state,)
        states = len(state)
        mem2 = self.lif2.init_leaky()
        spk2_rec, mem2_rec = [], []
        for step in range(T):
            cur1 = self.fc1(x[step] if self.frames else x)
            answer = self.lif1(cur1, *state)
            spk1 = answer[0]
            state = [answer[i] for i in range(states if isinstance(self.lif1, snn.RLeaky) else states + 1)]
            state = state if isinstance(self.lif1, snn.RLeaky) else state[1:]
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spk2_rec.append(spk2)
            mem2_rec.append(mem2)
        if self.ends == "potential":
            return torch.stack(mem2_rec)
        if self.ends == "sum":
            return torch.stack(spk2_rec).sum(0)
        if self.ends == "mean":
            return torch.stack(spk2_rec).mean(0)
        return torch.stack(spk2_rec, dim=0), torch.stack(mem2_rec, dim=0)


CELLS = {
    "Leaky": lambda: snn.Leaky(0.8, threshold=0.5, reset_mechanism="zero", reset_delay=False),
    "each": lambda: snn.Leaky(torch.linspace(0.1, 0.9, 16), threshold=torch.linspace(0.2, 1, 16)),
    "Synaptic": lambda: snn.Synaptic(0.7, 0.8),
    "Alpha": lambda: snn.Alpha(0.9, 0.7),
    "RLeaky": lambda: snn.RLeaky(0.9, linear_features=16),
    "one-to-one": lambda: snn.RLeaky(0.9, V=0.5, all_to_all=False),
    "Lapicque": lambda: snn.Lapicque(R=2.0, C=3.0, time_step=1.0),
}
KINDS = {"Synaptic": Synaptic, "Alpha": Alpha, "RLeaky": RLeaky, "one-to-one": RLeaky, "Lapicque": Lapicque}


@pytest.mark.parametrize("frames", [False, True], ids=["constant", "frames"])
@pytest.mark.parametrize("name", CELLS)
def test_a_loop_in_the_forward_becomes_a_network(name, frames):
    torch.manual_seed(0)
    module = Loop(CELLS[name], frames)
    x, target = torch.rand(5, T, 12) * 3 if frames else torch.rand(5, 12) * 3, torch.randint(4, (5,))
    network = convert(module, x)
    assert isinstance(network.chain[0].neurons, KINDS.get(name, Leaky))
    assert isinstance(network.encode, Frames) == frames
    with torch.no_grad():
        want = module(x.transpose(0, 1) if frames else x)[0].mean(0)
        torch.testing.assert_close(network(x), want)
    assert want.any()
    before = module.fc1.weight.detach().clone()
    for rule in ("pepita", "feedback_alignment", "backprop"):
        learner = rule_class(rule)(convert(copy.deepcopy(module), x), x)
        assert learner(x, target).loss.isfinite(), rule
    learner = rule_class("backprop")(network, x)
    optimizer = torch.optim.SGD(network.parameters(), 1.0)
    learner(x, target)
    optimizer.step()
    assert not torch.equal(module.fc1.weight, before)  # the weights are the module's own
    if name == "one-to-one":
        assert network.chain[0].neurons.recurrent.weight is module.lif1.V


def test_the_mean_of_the_loops_spikes_is_an_answer_too():
    module, x = Loop(ends="mean"), torch.rand(5, 12) * 3
    torch.testing.assert_close(convert(module, x)(x), module(x))


def test_learned_parameters_and_surrogates_are_shared():
    cell = snn.Leaky(torch.full((16,), 0.7), learn_beta=True, learn_threshold=True, spike_grad=surrogate.sigmoid())
    module, x = Loop(lambda: cell), torch.rand(5, 12) * 3
    neurons = convert(module, x).chain[0].neurons
    assert neurons.beta is cell.beta
    assert neurons.threshold is cell.threshold
    assert neurons.spike_grad is cell.spike_grad
    learner = rule_class("feedback_alignment")(convert(module, x), x)
    learner(x, torch.randint(4, (5,)))
    assert cell.beta.grad is not None


@pytest.mark.parametrize(
    ("module", "options", "said"),
    [
        (Loop(ends="sum"), {}, "ends in sum"),
        (Loop(ends="potential"), {}, "the potential of lif2 is read"),
        (Loop(), {"steps": 5}, "loops over 9 steps"),
    ],
)
def test_loops_that_are_not_understood_are_named(module, options, said):
    with pytest.raises(ConversionError, match=said):
        convert(module, torch.rand(5, 12), **options)


def test_snntorchs_list_of_neurons_does_not_grow():
    module, x = Loop(), torch.rand(5, 12)
    before = len(snn.SpikingNeuron.instances)
    for _ in range(3):
        convert(module, x)
    assert len(snn.SpikingNeuron.instances) == before
    assert sum(isinstance(m, Spiking) for m in convert(module, x).modules()) == 2
