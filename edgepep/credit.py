"""The error's way back: what a layer must remember of the forward pass, and the walk from the output to the input."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from edgepep.errors import EdgepepError
from edgepep.local import effective_weight, input_gradient, transports
from edgepep.network import Layer, Network
from edgepep.phases import ALIGN, BACKWARD, phase
from edgepep.rule import Outcome, Rule, output_error
from edgepep.time_axis import pull_back_through, through

Matrix = Callable[[int], Tensor]
"""From a layer's index to the matrix through which its error goes down to the layers that it reads."""


class Memory(NamedTuple):
    """What the walk back needs of one layer."""

    source: Tensor | None
    """What the layer read, where its preparation has a derivative that depends on it."""
    pre: Tensor
    kept: Tensor
    """What `Layer.kept` gave: from it the neurons' derivative is told."""


def remember(network: Network, x: Tensor, lowest: int | None = None) -> tuple[list[Memory], Tensor]:
    """Run forward, and keep what the walk back needs; also the logits.

    Args:
        network: to run.
        x: inputs [batch, ...].
        lowest: layer at which the walk will stop; else the lowest that learns. Of layers below it nothing is kept.

    """
    lowest = min(first_learner(network) if lowest is None else lowest, len(network.chain) - 1)
    nothing = Memory(None, *[x.new_empty(0)] * 2)
    memories: list[Memory] = []
    prepared = [i for i, layer in enumerate(network.chain) if i >= max(lowest, 1) and _looks_back(layer)]
    sources = {s for i in prepared for s in network.sources[i]}
    posts: dict[int, Tensor] = {}
    for i, activity in enumerate(network.stream(x)):
        layer = network.chain[i]
        layer.refuse_windows()
        source = None
        if i in prepared:
            source = network.gathered(posts, i)
        elif i == 0 and lowest <= 0 and layer.learns_before:
            source = through(network.encode, x)
        if i in sources:
            posts[i] = activity.post
        memories.append(Memory(source, activity.pre, layer.kept(activity)) if i >= lowest else nothing)
        post = activity.post
        del activity
    return memories, network.readout(post)


def _looks_back(layer: Layer) -> bool:
    """Whether the error's way back through a layer's preparation hangs on what the layer read."""
    return layer.learns_before or type(layer.prepare) is not nn.Identity


def walk_back(
    network: Network, memories: list[Memory], error: Tensor, matrix: Matrix, lowest: int | None = None
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield (layer index, pre, delta) from the last layer to the first, delta being the error at the synapses' output.

    A layer's error has gone on to the layers below before it is yielded, so its weights may be changed then. Memories
    are let go of as they are used.

    Args:
        network: that was run.
        memories: from `remember`; emptied.
        error: at the logits, [batch, classes].
        matrix: feedback of each layer but the first.
        lowest: layer at which to stop; else the lowest that learns. -1 goes on to the data, and at the end yields
            (-1, first layer's input, error there).

    """
    top = network.chain[-1]
    with phase(BACKWARD, top.name):
        credit: dict[int, Tensor] = {len(memories) - 1: pull_back_through(top.decode, memories[-1].kept, error)}
    lowest = first_learner(network) if lowest is None else lowest
    for i in range(len(memories) - 1, max(lowest, 0) - 1, -1):
        layer, (source, pre, kept) = network.chain[i], memories.pop()
        if i not in credit:  # nothing above reads this layer, or wants to know
            continue
        with phase(BACKWARD, layer.name):
            delta = layer.through_neurons(kept, credit.pop(i))
            if i > max(lowest, 0) or layer.learns_before:
                way = matrix(i) if transports(layer.synapses) else pre
                below = input_gradient(layer.synapses, pre, delta, way)
                below = pull_back_through(layer.prepare, pre if source is None else source, below, layer.over_time)
                for s in network.sources[i]:
                    credit[s] = credit[s] + below if s in credit else below
                del below
        del source, kept
        yield i, pre, delta
    if lowest < 0:
        with phase(BACKWARD, layer.name):
            at_input = input_gradient(layer.synapses, pre, delta, matrix(0))
        yield -1, pre, at_input


def uphill(network: Network, x: Tensor, target: Tensor) -> Tensor:
    """Gradient of the loss in the first layer's prepared input; an exact backward pass, from which nothing learns."""
    memories, logits = remember(network, x, -1)
    error = output_error(logits, target)
    *_, (_, _, gradient) = walk_back(network, memories, error, lambda i: weights_of(network.chain[i]), -1)
    for layer in network.chain:
        layer.forget()
    return gradient


def first_learner(network: Network) -> int:
    """Index of the lowest layer that learns; no error has to go below it."""
    return next((i for i, layer in enumerate(network.chain) if layer.learnable()), len(network.chain))


def ways_down(network: Network) -> dict[int, Layer]:
    """Layers through whose weights an error goes down to others, by their index."""
    return {
        i: layer
        for i, layer in enumerate(network.chain)
        if transports(layer.synapses) and (i > 0 or layer.learns_before)
    }


def weights_of(layer: Layer) -> Tensor:
    """Weights of a layer as its synapses use them: quantised, if they are."""
    weight = effective_weight(layer.synapses)
    if weight is None:
        raise EdgepepError(f"{type(layer.synapses).__name__} has no weights through which an error goes down.")
    return weight


def spread(layer: Layer) -> float:
    """Standard deviation of a layer's weights; 1 / sqrt(fan_in) if they are all the same."""
    weight = weights_of(layer)
    deviation = float(weight.double().std(correction=0))
    return deviation or float(weight[0].numel()) ** -0.5


def spreads(network: Network, like: Tensor) -> Tensor:
    """Return `spread` of every layer, 0 where nothing goes down, of the device and dtype of `like`."""
    down = ways_down(network)
    return like.new_tensor([spread(layer) if i in down else 0.0 for i, layer in enumerate(network.chain)])


class CreditChain(Rule):
    """A rule that carries the error backwards, layer by layer, through matrices that are not the weights.

    With M_l the matrix of layer l, e = softmax - one-hot, f' the neurons' derivative and every operation between the
    layers taken with its true derivative (as all published code does):

        d_L = e;    d_l = (d_(l+1) M_(l+1)) * f'(z_l);    dW_l = d_l^T h_(l-1), averaged over the batch

    Rules differ in what M is, and in whether it learns.
    """

    replayable = True

    def __init__(self, network: Network, example: Tensor) -> None:
        super().__init__(network, example)
        self.down = ways_down(network)

    @torch.no_grad()
    def learn(self, x: Tensor, target: Tensor) -> Outcome:
        """Run forward, then walk the error back; each layer learns as the walk comes by."""
        self.begin()
        memories, logits = remember(self.network, x)
        error = output_error(logits, target)
        for i, pre, delta in walk_back(self.network, memories, error, self.matrix):
            if i in self.down:
                with phase(ALIGN):
                    self.align(i, self.network.chain[i], pre)
            self.network.chain[i].learn(pre, delta, 1 / target.shape[0])
        return Outcome(logits, target)

    def begin(self) -> None:
        """Prepare a step; by default nothing."""

    def matrix(self, i: int) -> Tensor:
        """Feedback of layer i, of the shape of its weights; each rule writes this."""
        raise EdgepepError(f"the rule {type(self).__name__} has no feedback: write its `matrix`.")

    def align(self, i: int, layer: Layer, pre: Tensor) -> None:
        """Let the feedback of a layer learn, just before its weights do; by default it is fixed."""

    def feedback_matrices(self) -> dict[int, Tensor]:
        """Return the matrix of each layer that has one, by its index."""
        self.begin()
        return {i: self.matrix(i) for i in self.down}
