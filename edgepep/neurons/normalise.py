"""Normalisation of each sample by itself, without weights."""

from torch import Tensor, nn

from edgepep.errors import EdgepepError
from edgepep.neurons.codes import Rate, Trace


class Normalise(nn.Module):
    """Division of each sample by the root mean square ("rms") or the length ("l2") of its values.

    "layer" first takes off the sample's mean: layer normalisation (Ba, Kiros & Hinton 2016) without learned scale.

    Each sample by itself, so that an answer does not depend on what else is in the batch.

    Args:
        kind: "rms", "l2" or "layer".

    Raises:
        EdgepepError: if kind is none of these.

    """

    def __init__(self, kind: str = "rms") -> None:
        super().__init__()
        if kind not in ("rms", "l2", "layer"):
            raise EdgepepError(f"kind of normalisation is {kind!r}; it must be 'rms', 'l2' or 'layer'.")
        self.kind = kind

    def extra_repr(self) -> str:
        """Show the parameters when printed."""
        return repr(self.kind)

    def forward(self, x: Tensor) -> Tensor:
        """From and to [batch, ...]; zeros stay zeros."""
        axes = tuple(range(1, x.dim()))
        if self.kind == "layer":
            x = x - x.mean(axes, keepdim=True)
        power = x.square().sum(axes, keepdim=True) if self.kind == "l2" else x.square().mean(axes, keepdim=True)
        return x * (power + 1e-8).rsqrt()


def normalised(prepare: nn.Module) -> nn.Module:
    """Return a layer's preparation with a normalisation of what it reads; as it is, if it has one."""
    if any(isinstance(module, Normalise) for module in prepare.modules()):
        return prepare
    modules = [m for m in (prepare if isinstance(prepare, nn.Sequential) else [prepare]) if type(m) is not nn.Identity]
    at = 1 if modules and isinstance(modules[0], (Rate, Trace)) else 0  # a readout of spikes normalises what it reads
    return nn.Sequential(*modules[:at], Normalise(), *modules[at:])
