"""Work on activities that may have a time axis in front, and work that is skipped where there is none to do."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from edgepep.derivatives import pull_back
from edgepep.pooling import pooled


def through(module: nn.Module, x: Tensor) -> Tensor:
    """Return module(x), without the cost of a call where the module does nothing, and pooled quickly."""
    kind = type(module)
    if kind is nn.Identity:
        return x
    if kind is nn.MaxPool2d:
        return pooled(module, x)  # type: ignore[arg-type]
    if kind is nn.Sequential and not module._forward_hooks and not module._forward_pre_hooks:
        for part in module._modules.values():
            x = through(part, x)  # type: ignore[arg-type]
        return x
    answer: Tensor = module(x)
    return answer


def each_step(module: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a module at each time step of [time, batch, ...]: as one batch, or once if the input is constant."""
    if isinstance(module, nn.Identity):
        return x
    if x.stride(0) == 0:  # the same at every step: expanded, not copied
        y = _applied(module, x[0])
        return y.expand(x.shape[0], *y.shape)
    if not x.is_contiguous() and x.transpose(0, 1).is_contiguous():  # samples in memory one after the other
        return each_step(module, x.transpose(0, 1)).transpose(0, 1)
    y = _applied(module, x.flatten(0, 1))
    over_time: Tensor = y.unflatten(0, x.shape[:2])
    return over_time


def _applied(module: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return through(module, x) if isinstance(module, nn.Module) else module(x)


class EachStep(nn.Module):
    """A module among neurons over time that knows nothing of time: applied at each step of [time, batch, ...].

    Args:
        module: from and to [batch, ...].

    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """From and to [time, batch, ...]."""
        return each_step(self.module, x)


@pull_back.register
def _(f: EachStep, x: Tensor, delta: Tensor) -> Tensor:
    return pull_back_through(f.module, x, delta, over_time=True)


def shifted(x: Tensor, error: Tensor, rows: Tensor, spare: bool = False) -> Tensor:
    """Return x - error @ rows for x [batch, ...] or [time, batch, ...] and rows [classes, ...].

    With `spare`, x is not needed any more, and may be overwritten.
    """
    if _channels_last(x) and rows.dim() == 4:  # a step over images that are laid out so would first copy them all
        return shifted(_moved(x), error, _moved(rows), spare).permute(0, 3, 1, 2)
    if spare and x.dim() == rows.dim() and x.is_contiguous():
        return x.view(x.shape[0], -1).addmm_(error, rows.reshape(rows.shape[0], -1), alpha=-1).view(x.shape)
    if x.dim() == rows.dim() == 2:
        return torch.addmm(x, error, rows, alpha=-1)
    over_time = x.dim() > rows.dim()
    base = x[0] if over_time and x.stride(0) == 0 else x
    if over_time and base is x:
        return x - (error @ rows.flatten(1)).view(error.shape[0], *rows.shape[1:])
    y = torch.addmm(base.flatten(1), error, rows.flatten(1), alpha=-1).view(base.shape)
    return y.expand(x.shape) if over_time else y


def _channels_last(x: Tensor) -> bool:
    """Whether images [batch, channels, rows, columns] are in memory with the channels last."""
    exporting = torch.compiler.is_exporting()  # when strides are not to be looked at
    return not exporting and x.dim() == 4 and _moved(x).is_contiguous() and not x.is_contiguous()


def _moved(x: Tensor) -> Tensor:
    """[batch, rows, columns, channels] of [batch, channels, rows, columns], without a copy."""
    return x.permute(0, 2, 3, 1)


def pull_back_through(module: nn.Module, x: Tensor, delta: Tensor, over_time: bool = False) -> Tensor:
    """Pull an error back through a module, at each time step of [time, batch, ...] if it was applied so."""
    if type(module) is nn.Identity:
        return delta
    if not over_time:
        return pull_back(module, x, delta)
    flat = pull_back(module, x.flatten(0, 1), delta.flatten(0, 1))
    over_steps: Tensor = flat.unflatten(0, x.shape[:2])
    return over_steps
