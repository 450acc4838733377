"""Direct feedback alignment: the output's error goes to every layer at once."""

import torch
from torch import Tensor

from edgepep.credit import Memory, first_learner, remember, ways_down
from edgepep.feedback import Feedback, Storage
from edgepep.local import input_gradient
from edgepep.network import Layer, Network
from edgepep.phases import PROJECTION, phase
from edgepep.rule import Outcome, Traits, like, one_of, output_error
from edgepep.rules._broadcast import Broadcast
from edgepep.time_axis import pull_back_through


class Dfa(Broadcast):
    """Every hidden layer learns from the output's error through a fixed random map of its own; no error chain.

        d_l = (e D_l) * f'(z_l);    d_L = e;    dW_l = d_l^T h_(l-1), averaged over the batch

    For convolutions the literature has two forms, which are different algorithms, and a third is natural:

        "full" (Frenkel et al.): D_l maps to every value of the post; classes * channels * positions numbers
        "kernel" (biotorch): D_l has the shape of the next layer's kernels; the error, the same at every position of
            that layer's output, goes down through them; classes * kernel numbers, differs only at the borders
        "channel": one number a class and channel, the same at every position

    Args:
        network: what learns.
        example: one batch of inputs [batch, ...].
        form: "full", "kernel" or "channel"; they differ for convolutions only.
        sign: send the sign of the error (sDFA).
        feedback_scale: each map is uniform on +-feedback_scale / sqrt(classes).
        storage: how the maps are kept: "float", "int8", "sign", or not at all: "seed".
        seed: of the maps.

    Raises:
        EdgepepError: if an option is none of its values.

    """

    source = "Noekland 2016; forms after Frenkel et al. 2021 and biotorch"
    reads_weights = False
    traits = Traits("1 forward", False, "nothing", "output error, f'", "A + maps (A, from a seed)")

    def __init__(
        self,
        network: Network,
        example: Tensor,
        *,
        form: str = "full",
        sign: bool = False,
        feedback_scale: float = 1.0,
        storage: Storage = "float",
        seed: int = 0,
    ) -> None:
        one_of("form", form, "full", "kernel", "channel")
        super().__init__(network, example, feedback_scale, form, storage, seed)
        self.sign = sign
        if form == "kernel":
            self.feedback.clear()
            classes = self.classes
            for j, layer in ways_down(network).items():
                weight: Tensor = layer.synapses.weight  # type: ignore[assignment]
                channels = weight.shape[1] * int(getattr(layer.synapses, "groups", 1))
                shape = (classes, channels, *weight.shape[2:])
                self.feedback[str(j)] = Feedback(shape, feedback_scale * classes**-0.5, seed, j, like(network), storage)

    @torch.no_grad()
    def learn(self, x: Tensor, target: Tensor) -> Outcome:
        """Run forward; then every layer learns, in any order."""
        memories, logits = remember(self.network, x)
        error = output_error(logits, target)
        signal = error.sign() if self.sign else error
        *hidden, output = self.network.chain
        below = self._through_kernels(memories, signal) if self.form == "kernel" else {}
        for i, layer in enumerate(hidden):
            if not layer.learns or (self.form == "kernel" and i not in below):
                continue
            _, pre, kept = memories[i]
            if self.form == "kernel":
                delta = layer.through_neurons(kept, below.pop(i))
            else:
                delta = layer.error_at_current(kept, self.projected(i, signal))
            layer.learn(pre, delta, 1 / target.shape[0])
        _, pre, kept = memories[-1]
        output.learn(pre, output.error_at_current(kept, error), 1 / target.shape[0])
        return Outcome(logits, target)

    def _through_kernels(self, memories: list[Memory], signal: Tensor) -> dict[int, Tensor]:
        """Credit of each layer's post, sent down through the maps of the layers that read it."""
        credit: dict[int, Tensor] = {}
        lowest = first_learner(self.network)
        for j, rows in self.feedback.items():
            if int(j) <= lowest:  # nothing below it learns
                continue
            layer, (source, pre, kept) = self.network.chain[int(j)], memories[int(j)]
            with phase(PROJECTION, layer.name):
                below = input_gradient(layer.synapses, pre, _everywhere(layer, signal, kept), rows())
                below = pull_back_through(layer.prepare, pre if source is None else source, below, layer.over_time)
            for s in self.network.sources[int(j)]:
                credit[s] = credit[s] + below if s in credit else below
        return credit


def _everywhere(layer: Layer, signal: Tensor, kept: Tensor) -> Tensor:
    """The signal [batch, classes] at every position, and time step, of a layer's output."""
    axes = 1 if layer.over_time else 0
    positions = kept.shape[axes + 2 :]
    spread = signal.view(*signal.shape, *[1] * len(positions)).expand(*signal.shape, *positions)
    return (spread / kept.shape[0]).expand(kept.shape[0], *spread.shape) if layer.over_time else spread
