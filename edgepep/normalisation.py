"""Normalisation layers of a user's network, with a policy for statistics and for what of them learns."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm
from torch.nn.modules.batchnorm import _BatchNorm

from edgepep import phases
from edgepep.derivatives import by_autograd, pull_back
from edgepep.errors import EdgepepError

NORMS = (_BatchNorm, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)
_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


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
        """Left here by `edgepep.derivatives.pull_back`, until the layer learns."""

    def renew(self) -> None:
        """Begin a step."""
        self.fresh = True

    @property
    def of_the_batch(self) -> bool:
        """Whether the statistics are those of the batch at hand."""
        norm = self.norm
        return isinstance(norm, _BatchNorm) and (
            norm.running_mean is None or (norm.training and self.statistics == "batch")
        )

    def forward(self, x: Tensor) -> Tensor:
        """From and to [batch, ...]."""
        norm = self.norm
        if isinstance(norm, _BatchNorm) and norm.training:
            if self.statistics == "running":
                return batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)
            if phases.current():  # within a step: the first pass counts, whatever else is run
                counts, self.fresh = self.fresh, False
                if torch.compiler.is_exporting():
                    return _in_a_graph(norm, x, counts)
                if not counts:
                    return batch_norm(x, None, None, norm.weight, norm.bias, True, 0.0, norm.eps)
        answer: Tensor = norm(x)
        return answer

    def hand_over(self, apply: Callable[[nn.Parameter, Tensor], None]) -> None:
        """Hand the gradients of scale and shift to whoever applies them, once."""
        for parameter, gradient in self.gradients.items():
            apply(parameter, gradient)
        self.gradients.clear()


def _in_a_graph(norm: _BatchNorm, x: Tensor, counts: bool) -> Tensor:
    """Normalise by the statistics of the batch, in operations of which a graph keeps what they write."""
    mean, variance = _statistics(x)
    batches, running = norm.num_batches_tracked, (norm.running_mean, norm.running_var)
    if counts and batches is not None and running[0] is not None and running[1] is not None:
        n = torch.full((), x.numel() // x.shape[1], dtype=mean.dtype, device=mean.device)
        several = (n - 1).clamp(max=1)  # 0 for one value a channel, which torch refuses
        batches.add_(several.to(batches.dtype))
        share = several * (batches.clamp(min=1).to(mean.dtype).reciprocal() if norm.momentum is None else norm.momentum)
        running[0].add_((mean - running[0]) * share)
        running[1].add_((variance * n / (n - 1).clamp(min=1) - running[1]) * share)
    scale = (variance + norm.eps).rsqrt()
    if not norm.affine:
        return (x - _along(mean, x)) * _along(scale, x)
    scale = scale * norm.weight  # rounded as torch's kernel does it: one factor, one summand
    return x * _along(scale, x) + _along(norm.bias - mean * scale, x)


@pull_back.register
def _(f: Norm, x: Tensor, delta: Tensor) -> Tensor:
    norm = f.norm
    if not isinstance(norm, _PLAIN):
        return by_autograd(f, x, delta)
    mean, variance = _statistics(x) if f.of_the_batch else (norm.running_mean, norm.running_var)
    assert mean is not None
    assert variance is not None
    inverse = (variance + norm.eps).rsqrt()
    answer = (x - _along(mean, x)) * _along(inverse, x)
    by_scale, by_shift = _mean(delta * answer), _mean(delta)
    if norm.affine:
        inverse = inverse * norm.weight
        for parameter, gradient in ((norm.weight, by_scale), (norm.bias, by_shift)):
            if parameter.requires_grad:
                f.gradients[parameter] = gradient * (x.numel() // x.shape[1])
    if f.of_the_batch:  # a value has a share in the statistics of its channel
        delta = delta - _along(by_shift, x) - answer * _along(by_scale, x)
    return delta * _along(inverse, x)


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel of a batch."""
    mean = _mean(x)
    return mean, _mean((x - _along(mean, x)).square())


def _mean(x: Tensor) -> Tensor:
    """Of each channel: of a sample's first, for a runtime may add up all values one by one, and lose digits."""
    return (x.flatten(2).mean(2) if x.dim() > 2 else x).mean(0)


def _along(values: Tensor, x: Tensor) -> Tensor:
    """A value for each channel of x."""
    return values.view(-1, *[1] * (x.dim() - 2))
