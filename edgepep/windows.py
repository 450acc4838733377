"""Passes that go through time in windows of a few steps, so that memory does not grow with the number of steps.

All layers run on one window before the next begins; a layer's answer is gathered by its decoder as it comes. The
activities that a rule is handed hold what the decoders made of all of time, expanded over it, so rules read them as
they read any other. What they do not hold are the currents of every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from torch import Tensor, nn

from edgepep.divisible import possible, refuse_if_impossible
from edgepep.errors import EdgepepError
from edgepep.fakequant import quick
from edgepep.layer import Activity
from edgepep.local import linear_part
from edgepep.neurons.population import Spiking, State
from edgepep.phases import PROJECTION, SECOND, phase
from edgepep.time_axis import each_step, shifted, through

if TYPE_CHECKING:
    from edgepep.network import Network

__all__ = ["Start", "modulated", "possible", "readouts", "refuse_if_impossible", "stream"]

_IN_CACHE = 2**16
Carried = dict[nn.Module, State]
First = Callable[[int, int], tuple[Tensor, Tensor]]
"""Input and current of the first layer's synapses from one step to another."""


class Start(Activity):
    """The first layer's activity, with the data that it came from."""

    data: Tensor


def stream(network: Network, x: Tensor, name: str, keep: bool) -> Iterator[Activity]:
    """Run on data, yielding one Activity a layer.

    Args:
        network: that can.
        x: data [batch, ...].
        name: of the pass.
        keep: the first layer's current at every step, for a modulated pass that then need not compute it again.

    """
    pre, current, first = _from_data(network, x, name, None)
    if keep and pre is None:
        layer, steps = network.chain[0], _length(network, x)
        with phase(name, layer.name):
            code, current = first(0, steps)
            read = layer.read(code)
            pre = read.expand(steps, *read.shape)
            del code
        first = _sliced(pre, current)
    yield from _all_of_time(network, x, name, pre, current, first)


def modulated(
    network: Network, start: Activity, feedback: Tensor, error: Tensor, fixed: bool, shift: Tensor | None, changed: bool
) -> Iterator[Activity]:
    """Run again on the first layer's input minus error @ feedback, at every step of time."""
    layer = network.chain[0]
    assert isinstance(start, Start)  # from `stream`
    if shift is not None:
        raise EdgepepError("a shift of the input needs all time steps at once; run the network without windows.")
    with phase(PROJECTION, layer.name):
        pre = shifted(start.pre, error, feedback)
    with phase(SECOND, layer.name):
        rows = None if changed else layer.answer_to(feedback, len(error), fixed)
        first: First | None
        data, current = start.data, start.current
        del start
        if current.numel() and current.stride(0) == 0:  # constant
            current = each_step(quick(layer.synapses), pre) if rows is None else shifted(current, error, rows)
            first = _sliced(pre, current)
        else:
            rows = linear_part(layer.synapses, feedback) if rows is None else rows
            offset = (error @ rows.flatten(1)).view(len(error), *rows.shape[1:])
            first = _less(pre, current, offset) if current.numel() and not changed else None
    if first is None:
        _, current, first = _from_data(network, data, SECOND, offset)
    yield from _all_of_time(network, data, SECOND, pre, current, first)


def readouts(network: Network, x: Tensor, window: int, name: str) -> Iterator[tuple[Tensor, float]]:
    """Yield each window's logits and its share of time; no gradient flows from a window into the one before."""
    *_, first = _from_data(network, x, name, None, once=False)  # a graph of its own for every window
    carried: Carried = {}
    steps = _length(network, x)
    for a in range(0, steps, window):
        b = min(a + window, steps)
        posts: dict[int, Tensor] = {}
        for _ in _one_window(network, first, a, b, carried, posts, name):
            pass
        for i in range(_timed(network), len(network.chain)):
            network.run_layer(i, x, posts, name)
        yield network.readout(posts[len(network.chain) - 1]), (b - a) / steps
        for module, state in carried.items():
            carried[module] = tuple(part.detach() for part in state)


def _all_of_time(
    network: Network, x: Tensor, name: str, pre: Tensor | None, current: Tensor, first: First
) -> Iterator[Activity]:
    """Run all windows, gathering; then yield what was gathered, layer by layer, and go on to layers without time."""
    steps, count = _length(network, x), _timed(network)
    before: list[Tensor | None] = [None] * count
    after: list[Tensor | None] = [None] * count
    carried: Carried = {}
    size = network.window if isinstance(network.window, int) else _fitting(network, len(x), current)
    for a in range(0, steps, size):
        window = _one_window(network, first, a, min(a + size, steps), carried, {}, name)
        for i, (given, answer) in enumerate(window):
            decode = network.chain[i].decode
            if i or pre is None:
                before[i] = decode.gather(before[i], given)  # type: ignore[operator]
            after[i] = decode.gather(after[i], answer)  # type: ignore[operator]
            del given, answer
    for module, state in carried.items():
        module.refuse_what_is_no_number(state)  # type: ignore[operator]
    carried.clear()
    posts: dict[int, Tensor] = {}
    for i in range(count):
        decode = network.chain[i].decode
        given = pre if i == 0 and pre is not None else _finished(decode, before, i, steps)
        posts[i] = _finished(decode, after, i, steps)
        activity = Start(given, current, posts[i]) if i == 0 else Activity(given, current.new_empty(0), posts[i])
        if isinstance(activity, Start):
            activity.data = x
            pre = current = current.new_empty(0)
        del given
        yield activity
        del activity
    for i in range(count, len(network.chain)):
        yield network.run_layer(i, x, posts, name)


def _one_window(
    network: Network, first: First, a: int, b: int, carried: Carried, posts: dict[int, Tensor], name: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield pre and post of every layer over time, for the steps from a to b."""
    for i in range(_timed(network)):
        layer = network.chain[i]
        with phase(name, layer.name):
            if i == 0:
                pre, current = first(a, b)
            else:
                pre = each_step(layer.prepare, network.gathered(posts, i))
                current = each_step(quick(layer.synapses), pre)
            posts[i] = _onward(layer.neurons, current, carried)
        yield pre, posts[i]


def _onward(neurons: nn.Module, current: Tensor, carried: Carried) -> Tensor:
    """Answer of neurons that go on from the state that they were left in."""
    if isinstance(neurons, nn.Sequential):
        for module in neurons:
            current = _onward(module, current, carried)
        return current
    if isinstance(neurons, Spiking):
        spikes, carried[neurons] = neurons.scan(current, carried.get(neurons))
        return spikes
    return through(neurons, current)


def _from_data(
    network: Network, x: Tensor, name: str, offset: Tensor | None, once: bool = True
) -> tuple[Tensor | None, Tensor, First]:
    """Input and current of the first layer, if they are the same at every step, and what gives them step by step."""
    layer, steps = network.chain[0], _length(network, x)

    def coded(a: int, b: int) -> Tensor:
        if hasattr(network.encode, "window"):
            code: Tensor = network.encode.window(x, a, b)  # type: ignore[operator]
            return code
        return through(network.encode, x)[a:b]

    def run(a: int, b: int) -> tuple[Tensor, Tensor]:
        pre = each_step(layer.prepare, coded(a, b))
        current = each_step(quick(layer.synapses), pre)
        return pre, current if offset is None else current - offset

    if once and steps > 1 and coded(0, 2).stride(0) == 0:
        with phase(name, layer.name):
            pre, current = (v[0].expand(steps, *v.shape[1:]) for v in run(0, 2))
        return pre, current, _sliced(pre, current)
    return None, x.new_empty(0), run


def _sliced(pre: Tensor, current: Tensor) -> First:
    return lambda a, b: (pre[a:b], current[a:b])


def _less(pre: Tensor, current: Tensor, offset: Tensor) -> First:
    return lambda a, b: (pre[a:b], current[a:b] - offset)


def _fitting(network: Network, batch: int, current: Tensor) -> int:
    """Steps whose currents in the first layer stay in a processor's cache."""
    if current.numel():  # where the currents of all steps are held, a few more at a time take no more
        return max(1, _IN_CACHE * (1 if current.stride(0) == 0 else 4) // current[0].numel())
    weight: Tensor | None = getattr(network.chain[0].synapses, "weight", None)
    return 1 if weight is None else max(1, _IN_CACHE // (batch * len(weight)))


def _length(network: Network, x: Tensor) -> int:
    if hasattr(network.encode, "length"):
        steps: int = network.encode.length(x)  # type: ignore[operator]
        return steps
    return len(through(network.encode, x))


def _timed(network: Network) -> int:
    return sum(layer.over_time for layer in network.chain)


def _finished(decode: nn.Module, totals: list[Tensor | None], i: int, steps: int) -> Tensor:
    """What was gathered of layer i, expanded over time, and no longer held in the list."""
    total, totals[i] = totals[i], None
    value: Tensor = decode.finish(total, steps)  # type: ignore[operator]
    return value.expand(steps, *value.shape)
