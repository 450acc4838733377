"""From a user's module to a network that every rule can train, with the same weights and the same answers."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from edgepep.cutting import Cutter, has_update
from edgepep.errors import ConversionError
from edgepep.foreign import is_foreign
from edgepep.network import Network
from edgepep.normalisation import NORMS


def convert(
    module: nn.Module, example: Tensor, *, steps: int | None = None, statistics: str = "batch", seed: int = 0
) -> Network:
    """Make a network of a module, layer by layer, so that every rule can train it.

    The weights are the module's own: what trains the network trains the module, and its state_dict stays as it is.
    The network answers as the module does, bit for bit in evaluation mode.

    What can be converted is what torch.fx can trace to a row of layers with sums: Linear over any leading axes,
    Conv1d and Conv2d of any geometry, their Brevitas forms, and snnTorch's Leaky in a module that is one time step;
    between them activations, normalisations, pooling, reshaping, dropout. Dropout becomes edgepep's, whose mask is the
    same in all passes of a step; a Brevitas activation quantiser keeps the scale that it has.

    Args:
        module: it is traced, and run once on the example; it is not changed.
        example: one batch of inputs [batch, ...].
        steps: for spiking modules: the input is given as a constant current over so many steps, and the answer is the
            mean over them.
        statistics: of BatchNorm while training: "batch", updating the running ones once a step, or "running".
        seed: of dropout.

    Raises:
        ConversionError: naming the module, its type and what could be done.

    """
    root = nn.Sequential(module) if has_update(module) else module
    building = Cutter(root, steps, statistics, seed)
    for node in _trace(root).nodes:
        building.add(node)
    return _checked(module, building.network(), example, steps)


class _Tracer(fx.Tracer):
    """Goes into a user's own modules, and stops at torch's, Brevitas', snnTorch's and those with a local update."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return (
            has_update(m) or is_foreign(m) or isinstance(m, NORMS) or super().is_leaf_module(m, module_qualified_name)
        )


def _trace(module: nn.Module) -> fx.Graph:
    kind = type(module).__name__
    try:
        return _Tracer().trace(module)
    except Exception as error:  # torch.fx raises whatever the user's forward raises on a proxy
        raise ConversionError(
            f"cannot follow the forward of {kind}: {str(error).splitlines()[0]} Write it without control flow that "
            "depends on data, or build an edgepep.Network of Layers yourself."
        ) from error


def _checked(module: nn.Module, network: Network, example: Tensor, steps: int | None) -> Network:
    """Return the network if it answers as the module does."""
    if steps is None:
        was = {m: m.training for m in (*module.modules(), *network.modules())}
        with torch.no_grad():
            try:
                want, got = module.eval()(example), network.eval()(example)
            except RuntimeError as error:
                raise ConversionError(
                    f"the module does not run on the example: {str(error).splitlines()[0]}"
                ) from error
        for m, training in was.items():
            m.training = training
        if want.shape != got.shape or not torch.equal(want, got):
            raise ConversionError("the converted network answers differently; please report the module.")
        if got.dim() != 2:
            raise ConversionError(f"the module answers {list(got.shape)}; rules need logits of shape [batch, classes].")
    return network
