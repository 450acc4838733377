"""A recorder for any device: what a CUDA graph does, operation by operation.

It keeps every operation that a step asks of torch with the very tensors that it was given and gave, and does it again
by calling the same operations on the same tensors: Python, and whatever it remembers, has no part in that.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITS = {"_local_scalar_dense", "equal", "nonzero", "unique_dim", "_unique2", "masked_select", "is_nonzero"}
FROM_PYTHON = {"lift_fresh"}


class Tape(TorchDispatchMode):
    """Records by noting each operation as it is done."""

    def __init__(self, looks=False):
        """With `looks`, numbers may be looked at, as neurons do on a CPU and not on a GPU."""
        super().__init__()
        self.calls, self.replays, self.looks = [], 0, looks

    def warm(self, step):
        return step()

    def record(self, step):
        tape = Tape(self.looks)
        with tape:
            outcome = step()
        self.calls.append(len(tape.calls))

        @torch.no_grad()
        def again():
            self.replays += 1
            for func, args, kwargs, kept in tape.calls:
                for old, new in zip(kept, tree_leaves(func(*args, **kwargs)), strict=True):
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)

        return outcome, again

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        if name in WAITS and not self.looks:
            raise RuntimeError(f"{name} waits for the device.")
        if name in FROM_PYTHON:
            raise RuntimeError(f"{name} takes numbers from Python.")
        answer = func(*args, **(kwargs or {}))
        if name in WAITS:
            return answer
        self.calls.append((func, args, kwargs or {}, tree_leaves(answer)))
        return answer
