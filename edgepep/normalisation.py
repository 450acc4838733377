"""Normalisation layers of a user's network, with a policy for statistics and for what of them learns."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.functional import batch_norm
from torch.nn.modules.batchnorm import _BatchNorm

from edgepep import phases
from edgepep.errors import EdgepepError

NORMS = (_BatchNorm, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)


class Norm(nn.Module):
    """A normalisation of torch's, sharing its weights, for use in steps that pass over the network more than once.

    Batch statistics are those of the batch in every pass of a step, as in torch; the running ones are updated in its
    first forward pass only. Scale and shift learn by their exact gradient under rules that pull an error back through
    the normalisation, and rest under those that do not (PEPITA, Forward-Forward).

    Args:
        norm: BatchNorm, LayerNorm, RMSNorm or GroupNorm.
        statistics: of a BatchNorm while training: "batch", or "running", which are then never updated.

    Raises:
        EdgepepError: if statistics is neither, or there are no running statistics to use.

    """

    def __init__(self, norm: nn.Module, statistics: str = "batch") -> None:
        super().__init__()
        if statistics not in ("batch", "running"):
            raise EdgepepError(f"statistics is {statistics!r}; it must be 'batch' or 'running'.")
        if statistics == "running" and isinstance(norm, _BatchNorm) and norm.running_mean is None:
            raise EdgepepError("statistics is 'running', but the BatchNorm keeps none (track_running_stats=False).")
        self.norm, self.statistics = norm, statistics
        self.fresh, self.place = True, 0
        self.gradients: dict[nn.Parameter, Tensor] = {}
        """Left here by `edgepep.local.pull_back`, until the layer learns."""

    def renew(self) -> None:
        """Begin a step."""
        self.fresh = True

    def forward(self, x: Tensor) -> Tensor:
        """From and to [batch, ...]."""
        norm = self.norm
        if isinstance(norm, _BatchNorm) and norm.training:
            if self.statistics == "running":
                return batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)
            if phases.current():  # within a step: the first pass counts, whatever else is run
                if not self.fresh:
                    return batch_norm(x, None, None, norm.weight, norm.bias, True, 0.0, norm.eps)
                self.fresh = False
        answer: Tensor = norm(x)
        return answer

    def hand_over(self, apply: Callable[[nn.Parameter, Tensor], None]) -> None:
        """Hand the gradients of scale and shift to whoever applies them, once."""
        for parameter, gradient in self.gradients.items():
            apply(parameter, gradient)
        self.gradients.clear()
