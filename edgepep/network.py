"""A network as layers in a row, which runs as a stream of activities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import Tensor, nn

from edgepep import windows
from edgepep.children import child
from edgepep.errors import EdgepepError
from edgepep.fakequant import quick
from edgepep.layer import Activity, Layer
from edgepep.phases import FORWARD, PROJECTION, SECOND, phase
from edgepep.time_axis import each_step, shifted, through

__all__ = ["Activity", "Layer", "Network"]


class Network(nn.Module):
    """Layers in a row, between an encoder of the input and the last layer's answer.

    Args:
        layers: in order; the first reads the encoded input.
        encode: from data to the first layer's code: spikes over time, say.
        sources: for each layer, the indices of the earlier layers whose posts it adds up (residual sums); None
            stands for the layer before it. The first layer's entry must be None.
        window: of a spiking network, time steps after which the next layers run: memory then does not grow with the
            number of steps. None runs layer by layer over all of time, which is what rules need that carry an error
            back through time. "auto" does so for them, and goes in windows that fit a cache for whoever does not need
            the currents of every step.

    Raises:
        EdgepepError: if there is no layer, a layer names one that does not come before it, or windows are impossible.

    """

    encode: nn.Module = child("encode")

    def __init__(
        self,
        layers: Sequence[Layer],
        encode: nn.Module | None = None,
        sources: Sequence[Sequence[int] | None] | None = None,
        window: int | Literal["auto"] | None = "auto",
    ) -> None:
        super().__init__()
        if not layers:
            raise EdgepepError("a network needs at least one layer.")
        self.encode = encode or nn.Identity()
        self.layers = nn.ModuleList(layers)
        self.chain = tuple(layers)  # the same layers, without the container's cost in every step
        for i, layer in enumerate(layers):
            layer.name = layer.name or str(i)
        self.sources = _checked(sources or [None] * len(layers), len(layers))
        self._last_use = {s: i for i, sources in enumerate(self.sources) for s in sources}
        for i, layer in enumerate(layers):
            _keep_what_is_used_again(layer, i == 0)
        self._noisy = [m for m in self.modules() if hasattr(m, "renew")]
        for place, module in enumerate(self._noisy):
            module.place = place  # type: ignore[assignment]
        self.window = window

    @property
    def window(self) -> int | str | None:
        """Time steps in a window; None: all; "auto": as it suits who asks."""
        return self._window

    @window.setter
    def window(self, window: int | str | None) -> None:
        if isinstance(window, int):
            windows.refuse_if_impossible(self, window)
        elif window not in (None, "auto"):
            raise EdgepepError(f"window is {window!r}; it must be a number of time steps, None or 'auto'.")
        self._window = window
        self._at_will = window == "auto" and windows.possible(self)
        for layer in self.chain:
            layer.in_windows = isinstance(window, int) and layer.over_time

    def forward(self, x: Tensor) -> Tensor:
        """Answer of the last layer: logits [batch, classes]."""
        for activity in self.stream(x, currents="none"):
            output = activity.post
            del activity
        return self.readout(output)

    def readout(self, post: Tensor) -> Tensor:
        """Logits [batch, classes] from the last layer's post."""
        return self.chain[-1].read(post)

    def stream(
        self, x: Tensor, name: str = FORWARD, currents: Literal["all", "first", "none"] = "all"
    ) -> Iterator[Activity]:
        """Run layer by layer, yielding one Activity a layer; what the caller does not keep is freed as it goes.

        Args:
            x: data [batch, ...].
            name: the name of this pass among the phases of a step.
            currents: of a spiking network, which are needed at every step of time: those of all layers, of the first
                for a modulated pass, or none. What is not needed may be left out, and the rest given as its mean.

        """
        in_cache = self._at_will and currents != "all" and not torch.is_grad_enabled()
        if isinstance(self._window, int) or (in_cache and not torch.compiler.is_exporting()):
            yield from windows.stream(self, x, name, in_cache)
            return
        posts: dict[int, Tensor] = {}
        for i in range(len(self.chain)):
            yield self.run_layer(i, x, posts, name)

    def modulated(
        self,
        start: Activity,
        feedback: Tensor,
        error: Tensor,
        *,
        fixed: bool = True,
        shift: Tensor | None = None,
        changed: bool = False,
    ) -> Iterator[Activity]:
        """Run again on the first layer's input minus error @ feedback.

        The first synapses are linear, W (x - F e) = W x - (W F) e, so their answer to the modulated input follows from
        their answer to x and to the few rows of the feedback: exact algebra, nearly free, and no precision is lost
        when the modulation is smaller than a step of the input's grid. Only where the answer to the feedback would
        cost more than it saves are the synapses run on the modulated input itself.

        Args:
            start: the first layer's activity in the pass on x; its current may be overwritten.
            feedback: [classes, *shape of one pre].
            error: [batch, classes].
            fixed: the feedback is the same tensor at every step, so the answer to it may be followed through updates.
            shift: subtracted from the first layer's input too; of its shape.
            changed: the first layer's weights are not those of `start` any more.

        """
        if isinstance(start, windows.Start):
            again = windows.modulated(self, start, feedback, error, fixed, shift, changed)
            del start  # the pass lets go of it when it can
            yield from again
            return
        posts: dict[int, Tensor] = {}
        pre, current = self._modulate(start, feedback, error, fixed, shift, changed)
        del start, shift
        with phase(SECOND, self.chain[0].name):
            posts[0] = self.chain[0].answered(current)
        first = [Activity(pre, current, posts[0])]
        del pre, current
        yield first.pop()  # a name in this frame would keep the activity alive until the pass ends
        for i in range(1, len(self.chain)):
            yield self.run_layer(i, error, posts, SECOND)

    def select(self, pattern: str) -> list[Layer]:
        """Layers whose name matches a pattern such as "layer1.*" or "[01]", in order.

        Raises:
            EdgepepError: if there is none.

        """
        found = [layer for layer in self.chain if fnmatchcase(layer.name, pattern)]
        if not found:
            names = ", ".join(layer.name for layer in self.chain)
            raise EdgepepError(f"no layer is called {pattern!r}. There are: {names}.")
        return found

    def freeze(self, *patterns: str) -> None:
        """Let the layers of these names rest: no rule changes them any more."""
        for pattern in patterns:
            for layer in self.select(pattern):
                layer.requires_grad_(False)

    def renew_noise(self) -> None:
        """Go on to the next step's noise; passes until the next call repeat the same one."""
        for module in self._noisy:
            module.renew()  # type: ignore[operator]

    def run_layer(self, i: int, x: Tensor, posts: dict[int, Tensor], name: str) -> Activity:
        """Run layer i on the data, if it is the first, else on the posts that it reads; put its own among them."""
        with phase(name, self.chain[i].name):
            activity: Activity = self.chain[i](through(self.encode, x) if i == 0 else self._gather(posts, i))
        posts[i] = activity.post
        return activity

    def _modulate(
        self, start: Activity, feedback: Tensor, error: Tensor, fixed: bool, shift: Tensor | None, changed: bool
    ) -> tuple[Tensor, Tensor]:
        """Input and current of the first layer's synapses, modulated."""
        layer = self.chain[0]
        with phase(SECOND, layer.name):
            answer = None if changed or shift is not None else layer.answer_to(feedback, error.shape[0], fixed)
        with phase(PROJECTION, layer.name):
            given = start.pre
            if answer is not None and layer.over_time and len(self.chain) > 1:  # of the input only what is read counts
                read = layer.read(given)
                given = read.expand(given.shape[0], *read.shape)
            pre = shifted(given, error, feedback)
            if shift is not None:
                pre = pre - shift
        with phase(SECOND, layer.name):
            if answer is not None:  # a ReLU has answered the current with a tensor of its own
                spare = type(layer.neurons) is nn.ReLU and not torch.is_grad_enabled()
                return pre, shifted(start.current, error, answer, spare)
            return pre, each_step(quick(layer.synapses), pre) if layer.over_time else layer.drive(pre)

    def _gather(self, posts: dict[int, Tensor], i: int) -> Tensor:
        """Sum of the posts that layer i reads; those that no later layer reads are let go."""
        sources = self.sources[i]
        return _sum([posts.pop(s) if self._last_use[s] == i else posts[s] for s in sources])

    def gathered(self, posts: Sequence[Tensor] | dict[int, Tensor], i: int) -> Tensor:
        """What layer i > 0 reads, given the posts of all layers before it."""
        return _sum([posts[s] for s in self.sources[i]])


def _keep_what_is_used_again(layer: Layer, first: bool) -> None:
    """Stop modules from overwriting their input, but a ReLU its current: its sign is all that is asked of it later.

    What is read before the synapses may be another layer's answer, which a rule keeps; the first layer's current is
    used again for the second pass.
    """
    neurons = layer.neurons[0] if isinstance(layer.neurons, nn.Sequential) and len(layer.neurons) else layer.neurons
    for module in (*layer.prepare.modules(), *layer.neurons.modules()):
        harmless = module is neurons and type(module) is nn.ReLU and not first
        if getattr(module, "inplace", False) and not harmless:
            module.inplace = False  # type: ignore[assignment]


def _sum(read: list[Tensor]) -> Tensor:
    total = read[0]
    for post in read[1:]:
        total = total + post
    return total


def _checked(sources: Sequence[Sequence[int] | None], n: int) -> list[tuple[int, ...]]:
    if len(sources) != n:
        raise EdgepepError(f"{len(sources)} entries in sources for {n} layers.")
    found: list[tuple[int, ...]] = []
    for i, names in enumerate(sources):
        named = tuple(names) if names is not None else (i - 1,) if i else ()
        if (i == 0) != (not named) or any(not 0 <= s < i for s in named):
            raise EdgepepError(f"layer {i} cannot read layers {list(named)}; it reads layers from 0 to {i - 1}.")
        if len(set(named)) < len(named):
            raise EdgepepError(f"layer {i} cannot read layers {list(named)}: one is named twice.")
        found.append(named)
    return found
