"""The two gradients of a convolution: of its kernels, and of its input.

torch has one operator for both, which has no form in ONNX; in a graph each is written as a convolution.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, conv2d, conv_transpose1d, conv_transpose2d, pad
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from edgepep.products import torchs_own

Convolution = nn.Conv1d | nn.Conv2d


def padded(synapses: Convolution, pre: Tensor) -> tuple[Tensor, list[int]]:
    """The input as the kernel sees it, and the zero padding that is still to be added on both sides."""
    own = getattr(synapses, "pads", None)
    if own is not None:
        return pad(pre, own), [0] * len(synapses.kernel_size)
    both_sides = synapses._reversed_padding_repeated_twice
    if synapses.padding_mode != "zeros":
        return pad(pre, both_sides, mode=synapses.padding_mode), [0] * len(synapses.kernel_size)
    if isinstance(synapses.padding, str):  # "same" may need one more on one side
        return pad(pre, both_sides), [0] * len(synapses.kernel_size)
    return pre, list(synapses.padding)


def together(synapses: Convolution, x: Tensor) -> Tensor:
    """Samples [n, channels, *positions] of [..., batch, channels, *positions]."""
    return x.reshape(-1, *x.shape[-1 - len(synapses.kernel_size) :])


def laid_out(synapses: nn.Module, pre: Tensor) -> Tensor:
    """Return images as a CPU's convolutions like them, channels last; their answers, and all that follows, are so too.

    Images of one or two channels are as well off as they are. Where autograd would keep both, or something traces or
    counts, nothing is moved.
    """
    if (
        type(synapses) is not nn.Conv2d
        or torch.compiler.is_exporting()
        or torch.compiler.is_compiling()
        or synapses.in_channels < 3
        or pre.dim() != 4
        or pre.device.type != "cpu"
        or torch.is_grad_enabled()
        or not torch.backends.mkldnn.is_available()
        or torchs_own()
        or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        or is_in_torch_dispatch_mode()
    ):
        return pre
    return pre.contiguous(memory_format=torch.channels_last)


def kernel_gradient(synapses: Convolution, pre: Tensor, delta: Tensor, biased: bool) -> tuple[Tensor, Tensor | None]:
    """Gradients of sum(delta * synapses(pre)) in the kernels and in the bias.

    Args:
        synapses: whose geometry counts.
        pre: [..., batch, channels, *positions].
        delta: of the shape of their answer.
        biased: whether the bias is asked for too.

    """
    delta = together(synapses, delta)
    pre, padding = padded(synapses, together(synapses, pre))
    if torch.compiler.is_exporting():
        return _correlated(synapses, pre, delta, padding), delta.transpose(0, 1).flatten(1).sum(1) if biased else None
    shape: list[int] | None = [delta.shape[1]] if biased else None
    geometry = (list(synapses.stride), padding, list(synapses.dilation), False, [0] * len(padding), synapses.groups)
    _, by_weight, by_bias = torch.ops.aten.convolution_backward(
        delta, pre, synapses.weight, shape, *geometry, [False, True, biased]
    )
    return by_weight, by_bias if biased else None


def _correlated(synapses: Convolution, pre: Tensor, delta: Tensor, padding: Sequence[int]) -> Tensor:
    """The kernels' gradient as a convolution of the input by the error, channels and samples changing places."""
    n, groups, shape = pre.shape[0], synapses.groups, synapses.weight.shape
    images = pre.view(n, groups, shape[1], *pre.shape[2:]).permute(2, 1, 0, *range(3, pre.dim() + 1)).flatten(1, 2)
    convolve = conv2d if pre.dim() == 4 else conv1d
    answer = convolve(images, delta.transpose(0, 1), None, synapses.dilation, padding, synapses.stride, groups)
    for axis, size in enumerate(shape[2:], 2):  # positions at which the last stride left something over
        answer = answer.narrow(axis, 0, size)
    return answer.transpose(0, 1)


def image_gradient(synapses: Convolution, pre: Tensor, delta: Tensor, matrix: Tensor) -> Tensor:
    """Gradient of sum(delta * synapses(pre)) in the samples of pre after padding, had they the kernels `matrix`."""
    image, padding = padded(synapses, together(synapses, pre))
    delta = together(synapses, delta)
    groups = image.shape[1] // matrix.shape[1]  # its own, unless the matrix joins what the kernels keep apart
    stride, dilation = list(synapses.stride), list(synapses.dilation)
    if torch.compiler.is_exporting():
        sizes = zip(image.shape[2:], delta.shape[2:], stride, padding, dilation, matrix.shape[2:], strict=True)
        left_over = [size - ((out - 1) * s - 2 * p + d * (k - 1) + 1) for size, out, s, p, d, k in sizes]
        transposed = conv_transpose2d if image.dim() == 4 else conv_transpose1d
        return transposed(delta, matrix, None, stride, padding, left_over, groups, dilation)
    by_image: Tensor = torch.ops.aten.convolution_backward(
        delta, image, matrix, None, stride, padding, dilation, False, [0] * len(padding), groups, [True, False, False]
    )[0]
    return by_image
