"""The local computations that every rule is built from, by type of synapses."""

from functools import singledispatch
from typing import NamedTuple

import torch
from torch import Tensor, nn

from edgepep.convolving import image_gradient, kernel_gradient, padded, together
from edgepep.derivatives import pull_back
from edgepep.errors import EdgepepError
from edgepep.fakequant import quick, weight_used
from edgepep.products import by_stretches, multiplied, stretches


class Product(NamedTuple):
    """A weight gradient kept as its two factors: left [n, out], right [n, in]; it stands for left.T @ right."""

    left: Tensor
    right: Tensor


Gradient = Tensor | Product


Factor = float | Tensor | torch.SymFloat
"""A number, or what stands for one in a graph: a 0-d tensor, or a size that is left free."""


def accumulate_(buffer: Tensor, gradient: Gradient, beta: Factor = 1.0, alpha: Factor = 1.0) -> Tensor:
    """Set buffer to beta * buffer + alpha * gradient in place, never forming a product's matrix."""
    if not isinstance(alpha, (float, int)) or not isinstance(beta, (float, int)):
        return _accumulate_values_(buffer, gradient, beta, alpha)
    if not isinstance(gradient, Product):
        return (buffer if beta == 1.0 else buffer.mul_(beta)).add_(gradient, alpha=alpha)
    left, right = gradient
    if by_stretches(left, right):
        return _accumulate_by_rows_(buffer, left, right, float(beta), float(alpha))
    if left.shape[0] == 1:  # a rank-one update touches each weight once, without a matrix product's set-up
        return buffer.addr_(left[0], right[0], beta=beta, alpha=alpha)
    return buffer.addmm_(left.t(), right, beta=beta, alpha=alpha)


def _accumulate_values_(buffer: Tensor, gradient: Gradient, beta: Factor, alpha: Factor) -> Tensor:
    """The same with factors that are values, which matrix products do not take."""
    if not (isinstance(beta, float) and beta == 1.0):
        buffer.mul_(beta)
    if isinstance(gradient, Tensor):
        return buffer.add_(gradient * alpha)
    left = torch.mul(gradient.left, alpha)  # type: ignore[arg-type]
    if by_stretches(left, gradient.right):
        return _accumulate_by_rows_(buffer, left, gradient.right, 1.0, 1.0)
    return buffer.addmm_(left.t(), gradient.right)


def _accumulate_by_rows_(buffer: Tensor, left: Tensor, right: Tensor, beta: float, alpha: float) -> Tensor:
    """The same, some rows at a time: their product is formed, and let go."""
    for rows in stretches(buffer):
        part = buffer[rows]
        (part if beta == 1.0 else part.mul_(beta)).add_(multiplied(left[:, rows].t(), right.t()), alpha=alpha)
    return buffer


def dense_gradient(gradient: Gradient) -> Tensor:
    """Return the gradient as the one tensor that it stands for."""
    return gradient if isinstance(gradient, Tensor) else multiplied(gradient.left.t(), gradient.right.t())


@singledispatch
def weight_gradient(synapses: nn.Module, pre: Tensor, delta: Tensor) -> dict[str, Gradient]:
    """Gradient of sum(delta * synapses(pre)) in the parameters of the synapses, by parameter name.

    pre and delta are [..., batch, *features]; leading axes (time) are summed over.

    Raises:
        EdgepepError: for a type of synapses that has no local update.

    """
    known = ", ".join(t.__name__ for t in weight_gradient.registry if t is not object)
    raise EdgepepError(
        f"{type(synapses).__name__} has no local update; there are updates for {known}. "
        "Register one with edgepep.local.weight_gradient.register."
    )


@weight_gradient.register
def _(synapses: nn.Linear, pre: Tensor, delta: Tensor) -> dict[str, Gradient]:
    left, right = delta, pre
    if pre.dim() > 2:
        left, right = delta.reshape(-1, delta.shape[-1]), pre.reshape(-1, pre.shape[-1])
    weight: dict[str, Gradient] = {"weight": Product(left, right)}
    return weight if synapses._parameters["bias"] is None else weight | {"bias": left.sum(0)}


@weight_gradient.register(nn.Conv1d)
@weight_gradient.register(nn.Conv2d)
def _(synapses: nn.Conv1d | nn.Conv2d, pre: Tensor, delta: Tensor) -> dict[str, Gradient]:
    by_weight, by_bias = kernel_gradient(synapses, pre, delta, synapses.bias is not None)
    return {"weight": by_weight} if by_bias is None else {"weight": by_weight, "bias": by_bias}


def linear_part(synapses: nn.Module, x: Tensor) -> Tensor:
    """What x adds to the current of the synapses: their answer without the bias."""
    bias = getattr(synapses, "bias", None)
    answer = quick(synapses)(x)
    if bias is None:
        return answer
    features_last = isinstance(synapses, nn.Linear)
    without: Tensor = answer - (bias if features_last else bias.view(-1, *[1] * (answer.dim() - 2)))
    return without


@singledispatch
def input_gradient(synapses: nn.Module, pre: Tensor, delta: Tensor, matrix: Tensor) -> Tensor:
    """Gradient of sum(delta * synapses(pre)) in pre, had the synapses the weights `matrix`.

    With their own weights it is backpropagation's; with others, of the same shape, a feedback path. Synapses without
    weights to transport (normalisation, say) pass the error on by their own derivative, whatever the matrix.

    Args:
        synapses: whose geometry counts: stride, padding, dilation, groups.
        pre: their input [..., batch, *features]; of a linear map only its shape is read.
        delta: error at their output.
        matrix: of the shape of their weight.

    """
    return pull_back(synapses, pre, delta)


@input_gradient.register
def _(synapses: nn.Identity, pre: Tensor, delta: Tensor, matrix: Tensor) -> Tensor:
    return delta


@input_gradient.register
def _(synapses: nn.Linear, pre: Tensor, delta: Tensor, matrix: Tensor) -> Tensor:
    return multiplied(delta, matrix.t())


@input_gradient.register(nn.Conv1d)
@input_gradient.register(nn.Conv2d)
def _(synapses: nn.Conv1d | nn.Conv2d, pre: Tensor, delta: Tensor, matrix: Tensor) -> Tensor:
    flat = together(synapses, pre)
    by_input = image_gradient(synapses, pre, delta, matrix)
    if by_input.shape != flat.shape:  # more was seen than was given
        by_input = pull_back(lambda x: padded(synapses, x)[0], flat, by_input)
    return by_input.reshape(pre.shape)


def shrink_(synapses: nn.Module, share: float) -> None:
    """Take a share off the weights of the synapses, in their own way if they have one."""
    if hasattr(synapses, "shrink_"):
        synapses.shrink_(share)  # type: ignore[operator]
        return
    weight: Tensor = synapses.weight  # type: ignore[assignment]
    weight.mul_(1 - share)


def transports(synapses: nn.Module) -> bool:
    """Whether an error goes down through weights of the synapses, in whose place a feedback may stand."""
    return isinstance(synapses, (nn.Linear, nn.Conv1d, nn.Conv2d))


def effective_weight(synapses: nn.Module) -> Tensor | None:
    """Weights as the synapses use them, quantised if they are; None if they have none to transport."""
    if not isinstance(synapses, (nn.Linear, nn.Conv1d, nn.Conv2d)):  # `transports`, in mypy's words
        return None
    return weight_used(synapses)


def respond(synapses: nn.Module, pre: Tensor, matrix: Tensor) -> Tensor:
    """Answer of the synapses without a bias, had they the weights `matrix`.

    Raises:
        EdgepepError: for synapses that are neither linear nor convolutions.

    """
    if isinstance(synapses, nn.Linear):
        return pre @ matrix.t()
    if isinstance(synapses, nn.Conv1d):
        by_conv: Tensor = nn.Conv1d._conv_forward(synapses, pre, matrix, None)
        return by_conv
    if isinstance(synapses, nn.Conv2d):
        forward = type(synapses)._conv_forward if hasattr(synapses, "pads") else nn.Conv2d._conv_forward
        by_conv = forward(synapses, pre, matrix, None)
        return by_conv
    raise EdgepepError(f"{type(synapses).__name__} has no weights to be given others for.")
