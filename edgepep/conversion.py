"""From a user's module to a network that every rule can train, with the same weights and the same answers."""

from __future__ import annotations

import copy
import inspect
from itertools import zip_longest

import torch
from torch import Tensor, fx, nn

from edgepep.cutting import Cutter
from edgepep.errors import ConversionError
from edgepep.foreign import is_foreign
from edgepep.network import Network
from edgepep.neurons import Frames
from edgepep.normalisation import NORMS
from edgepep.products import as_torch_does
from edgepep.unrolling import OneStep, one_step
from edgepep.work import has_update


def convert(
    module: nn.Module, example: Tensor, *, steps: int | None = None, statistics: str = "batch", seed: int = 0
) -> Network:
    """Make a network of a module, layer by layer, so that every rule can train it.

    The weights are the module's own: what trains the network trains the module, and its state_dict stays as it is.
    The network answers as the module does, bit for bit in evaluation mode.

    What can be converted is what torch.fx can trace to a row of layers with sums: Linear over any leading axes,
    Conv1d and Conv2d of any geometry, their Brevitas forms, and snnTorch's Leaky, Synaptic, Alpha, RLeaky and Lapicque,
    in a module that is one time step (init_hidden=True), or that loops over time and returns its output spikes stacked;
    between them activations, normalisations, pooling, reshaping, dropout. Dropout becomes edgepep's, whose mask is the
    same in all passes of a step; a Brevitas activation quantiser keeps the scale that it has.

    Args:
        module: it is traced, and run once on the example; it is not changed.
        example: one batch of inputs [batch, ...].
        steps: for spiking modules that are one time step: the input is given as a constant current over so many steps.
            The answer of a spiking network is the mean over time. A module whose loop reads a time step of its input
            [time, batch, ...] at a time becomes a network that reads [batch, time, ...].
        statistics: of BatchNorm while training: "batch", updating the running ones once a step, or "running".
        seed: of dropout.

    Raises:
        ConversionError: naming the module, its type and what could be done.

    """
    root = nn.Sequential(module) if has_update(module) else module
    graph = _trace_in_both_modes(root)
    loop = one_step(graph, root)
    if loop and steps not in (None, loop.steps):
        raise ConversionError(f"steps is {steps}, but the module loops over {loop.steps} steps by itself.")
    building = Cutter(root, loop.steps if loop else steps, statistics, seed)
    for node in (loop.graph if loop else graph).nodes:
        building.add(node)
    network = building.network()
    if loop and loop.frames:
        network.encode = Frames()
    return _checked(module, network, example, steps, loop)


class _Tracer(fx.Tracer):
    """Goes into a user's own modules, and stops at torch's, Brevitas', snnTorch's and those with a local update."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return (
            has_update(m) or is_foreign(m) or isinstance(m, NORMS) or super().is_leaf_module(m, module_qualified_name)
        )


def _trace_in_both_modes(module: nn.Module) -> fx.Graph:
    """Trace a module, which has to do the same in training as in evaluation, but for its modules."""
    was = {m: m.training for m in module.modules()}
    try:
        graphs = [_trace(module.train(mode)) for mode in (True, False)]
    finally:
        for m, training in was.items():
            m.training = training
    steps = [[(node.op, str(node.target)) for node in graph.nodes] for graph in graphs]
    for one, other in zip_longest(*steps):
        if one != other:
            where = (one or other)[1]
            raise ConversionError(f"the forward does something else in training than in evaluation, at {where}.")
    return graphs[0]


def _trace(module: nn.Module) -> fx.Graph:
    kind = type(module).__name__
    parameters = list(inspect.signature(module.forward).parameters.values())
    left = {p.name: p.default for p in parameters[1:] if p.default is not p.empty}
    try:
        return _Tracer().trace(module, concrete_args=left or None)
    except Exception as error:  # torch.fx raises whatever the user's forward raises on a proxy
        raise ConversionError(
            f"cannot follow the forward of {kind}: {str(error).splitlines()[0]} Write it without control flow that "
            "depends on data, or build an edgepep.Network of Layers yourself."
        ) from error


def _checked(module: nn.Module, network: Network, example: Tensor, steps: int | None, loop: OneStep | None) -> Network:
    """Return the network, in the module's mode, if it answers as the module does."""
    network.train(module.training)
    spiking = any(layer.over_time for layer in network.chain)
    if steps is not None and not spiking:
        raise ConversionError(f"steps is {steps}, but nothing in the module spikes.")
    module, twin = copy.deepcopy(module).eval(), copy.deepcopy(network).eval()
    with torch.no_grad(), as_torch_does():
        try:
            if loop:
                want = _looped(module, example.transpose(0, 1) if loop.frames else example)
            else:
                want = _over_time(module, example, steps) if steps else module(example)
            got = twin(example)
        except Exception as error:  # whatever the user's forward raises
            said = str(error).splitlines()[0]
            raise ConversionError(f"the module does not run on the example: {said}") from error
        posts: list[Tensor] = []
        for sources, activity in zip(twin.sources, twin.stream(example), strict=True):
            if any(posts[s].shape != posts[sources[0]].shape for s in sources):
                shapes = [list(posts[s].shape[1:]) for s in sources]
                raise ConversionError(f"a sum of {shapes} broadcasts; a network adds up tensors of one shape.")
            posts.append(activity.post)
    if got.dim() != 2 or want.dim() != 2:
        raise ConversionError(f"the module answers {list(want.shape)}; rules need logits of shape [batch, classes].")
    # spikes may fall otherwise where a sum is rounded otherwise: time steps are multiplied as one batch
    same = (want - got).abs().mean() <= 0.02 * want.abs().mean() if spiking else torch.equal(want, got)
    if want.shape != got.shape or not same:
        raise ConversionError("the converted network answers differently; please report the module.")
    return network


def _looped(module: nn.Module, example: Tensor) -> Tensor:
    """Mean over time of the spikes of a module that loops by itself."""
    answer = module(example)
    spikes: Tensor = answer[0] if isinstance(answer, tuple) else answer
    return spikes.mean(0) if spikes.dim() > 2 else spikes


def _over_time(module: nn.Module, example: Tensor, steps: int) -> Tensor:
    """Mean answer over some steps, from rest."""
    for m in module.modules():  # snntorch.utils.reset knows only the modules that were made, not their copies
        if hasattr(m, "reset_mem"):
            m.reset_mem()  # type: ignore[operator]
    answers = [module(example) for _ in range(steps)]
    return torch.stack([answer[0] if isinstance(answer, tuple) else answer for answer in answers]).mean(0)
