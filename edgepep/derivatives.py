"""One function's share of a backward pass, and no more: what an error's way back through it asks for."""

from collections.abc import Callable
from functools import singledispatch

import torch
from torch import Tensor, nn

from edgepep.injection import Inject

_BY_ANSWER: dict[type[nn.Module], Callable[[Tensor, Tensor], Tensor]] = {
    nn.Identity: lambda delta, answer: delta,
    nn.ReLU: lambda delta, answer: torch.ops.aten.threshold_backward(delta, answer, 0),
    nn.Tanh: torch.ops.aten.tanh_backward,
    nn.Sigmoid: torch.ops.aten.sigmoid_backward,
}


def told_by_answer(f: nn.Module) -> bool:
    """Whether the answer of a function alone says what its derivative was; then its input need not be kept."""
    return type(f) in _BY_ANSWER


def pull_back_answer(f: nn.Module, answer: Tensor, delta: Tensor) -> Tensor:
    """Do what `pull_back` does, from f(x) in place of x, for functions that are `told_by_answer`."""
    return _BY_ANSWER[type(f)](delta, answer)


@singledispatch
def pull_back(f: Callable[[Tensor], Tensor], x: Tensor, delta: Tensor) -> Tensor:
    """Gradient of sum(delta * f(x)) in x: the share of one function in a backward pass, and no more.

    Known in closed form for common modules, registered by type; else by autograd over this one function. Normalisations
    in it (what has a `gradients` dictionary) are left the gradients of their own parameters.
    """
    return by_autograd(f, x, delta)


def by_autograd(f: Callable[[Tensor], Tensor], x: Tensor, delta: Tensor) -> Tensor:
    """Do what `pull_back` does, by autograd, whatever is known of f in closed form."""
    modules = list(f.modules()) if isinstance(f, nn.Module) else []
    learning = [(m, p) for m in modules if hasattr(m, "gradients") for p in m.parameters() if p.requires_grad]
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        answer = f(x.clone() if any(getattr(m, "inplace", False) for m in modules) else x)
        by_input, *rest = torch.autograd.grad(Inject.apply(1, answer, delta), [x, *(p for _, p in learning)])
    for (module, parameter), gradient in zip(learning, rest, strict=True):
        module.gradients[parameter] = gradient  # type: ignore[operator]
    return by_input


@pull_back.register
def _(f: nn.Identity, x: Tensor, delta: Tensor) -> Tensor:
    return delta


@pull_back.register
def _(f: nn.ReLU, x: Tensor, delta: Tensor) -> Tensor:
    return pull_back_answer(f, x, delta)  # the answer has the sign of x, and no more is asked of it


@pull_back.register(nn.Tanh)
@pull_back.register(nn.Sigmoid)
def _(f: nn.Tanh | nn.Sigmoid, x: Tensor, delta: Tensor) -> Tensor:
    return pull_back_answer(f, f(x), delta)


@pull_back.register
def _(f: nn.Flatten, x: Tensor, delta: Tensor) -> Tensor:
    return delta.reshape(x.shape)


@pull_back.register
def _(f: nn.Sequential, x: Tensor, delta: Tensor) -> Tensor:
    inputs = [x]
    for module in f[:-1]:
        inputs.append(module(inputs[-1].clone() if getattr(module, "inplace", False) else inputs[-1]))
    for module, given in zip(reversed(f), reversed(inputs), strict=True):
        delta = pull_back(module, given, delta)
    return delta
