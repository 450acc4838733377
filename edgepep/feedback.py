"""Fixed random feedback: stored in floats, bytes or bits, or not stored at all but drawn again from its seed."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from edgepep import noise, phases
from edgepep.errors import EdgepepError
from edgepep.phases import DRAW, phase

Storage = Literal["float", "int8", "sign", "seed"]


class Feedback(nn.Module):
    """A fixed random tensor, the same for a seed on every device and platform; called, it gives its values.

    Values are a hash of (seed, place, index) in 32-bit integers, times one constant, so they are bit-identical
    wherever they are drawn. What is stored is a buffer, and so seen by the profiler:

        "float": 4 bytes a value;    "int8": 1 byte, values on a grid of 255;    "sign": 1 bit, values +-constant;
        "seed": nothing; the values of "float", bit for bit, drawn again whenever they are asked for

    All have zero mean; int8 and sign have the standard deviation of the uniform distribution that they stand for.

    Args:
        shape: of the tensor.
        bound: values of "float" are uniform on [-bound, bound).
        seed: of the rule.
        place: tells the tensors of one rule apart.
        like: its device and dtype are taken.
        storage: how it is kept.

    Raises:
        EdgepepError: if storage is none of its values.

    """

    codes: Tensor
    bound: Tensor

    def __init__(
        self, shape: Sequence[int], bound: float, seed: int, place: int, like: Tensor, storage: Storage = "float"
    ) -> None:
        super().__init__()
        if storage not in get_args(Storage):
            raise EdgepepError(f"storage is {storage!r}; it must be one of {', '.join(map(repr, get_args(Storage)))}.")
        self.shape, self.storage, self.dtype = tuple(shape), storage, like.dtype
        self.seed, self.place = seed, place
        self.register_buffer("bound", torch.tensor(bound, dtype=torch.float64, device=like.device))
        self.register_buffer("codes", None if storage == "seed" else self._drawn())
        if storage == "float":  # nothing is scaled any more
            del self.bound

    @property
    def fixed(self) -> bool:
        """Whether calls give the same tensor object: one held in memory."""
        return self.storage == "float"

    @torch.no_grad()
    def rescale(self, factor: float) -> None:
        """Multiply all values by a factor."""
        (self.codes if self.storage == "float" else self.bound).mul_(factor)

    def extra_repr(self) -> str:
        """Show the parameters when printed."""
        return f"{list(self.shape)}, storage={self.storage!r}"

    def forward(self) -> Tensor:
        """Values, of the shape given."""
        if self.storage == "float":
            return self.codes
        with phase(DRAW, phases.current_layer()):
            return self._unpacked()

    def _unpacked(self) -> Tensor:
        if self.storage == "seed":
            return self._drawn()
        if self.storage == "int8":
            return self.codes.to(self.dtype).mul_(self.bound / 127)
        places = torch.arange(8, dtype=torch.uint8, device=self.codes.device)
        bits = (self.codes.unsqueeze(1) >> places).bitwise_and_(1).flatten()
        size = torch.Size(self.shape).numel()
        return bits[:size].view(self.shape).to(self.dtype).mul_(2).sub_(1).mul_(self.bound / 3**0.5)

    def _drawn(self) -> Tensor:
        device = self.bound.device
        key = key_of(self.seed, self.place, device)
        if self.storage in ("float", "seed"):
            return noise.uniform(self.shape, self.bound, key).to(self.dtype)
        drawn = noise.bits(self.shape, key)
        if self.storage == "int8":
            return (drawn >> 24).clamp_(min=-127).to(torch.int8)
        positive = (drawn.flatten() >= 0).to(torch.uint8)
        padded = torch.nn.functional.pad(positive, (0, -len(positive) % 8)).view(-1, 8)
        weights = 2 ** torch.arange(8, dtype=torch.int32, device=device)
        return (padded.to(torch.int32) * weights).sum(1).to(torch.uint8)


def key_of(seed: int, place: int, device: torch.device | None = None) -> Tensor:
    """The key by which the feedback of a seed and a place is drawn."""
    return noise.key(seed, 0xF, *([place] if place else []), device=device)
