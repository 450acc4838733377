"""Feed-forward with delayed feedback: last epoch's error of a sample goes to every layer in this epoch's pass."""

from typing import Any

import torch
from torch import Tensor

from edgepep.network import Network
from edgepep.rule import Outcome, Traits, classes_of, like, output_error
from edgepep.rules.drtp import Drtp


class F3(Drtp):
    """Every hidden layer learns, while the forward pass runs, from the error that the sample had an epoch ago.

        d_l = (e' D_l) * f'(z_l), e' the delayed error;    d_L = e;    dW_l = d_l^T h_(l-1), averaged over the batch

    A sample that was never seen is taken to have been answered by the uniform distribution. So is every sample when
    the rule is called without `samples` (their indices in the training set; `edgepep.fit` gives them).

    Args:
        network: what learns.
        example: one batch of inputs [batch, ...].
        **options: of drtp.

    """

    source = "Fluegel et al. 2023 (arXiv 2304.13372)"
    traits = Traits("1 forward", False, "nothing", "error of the last epoch, f'", "A2 + maps + classes a sample")
    replayable = False  # its memory grows with the number of samples, which it has to look at
    delayed: Tensor
    may_be_nan = ("delayed",)
    """Of a sample that was never seen."""

    def __init__(self, network: Network, example: Tensor, **options: Any) -> None:
        super().__init__(network, example, **options)
        self.register_buffer("delayed", like(network).new_zeros(0, self.classes))
        self.error: Tensor = self.delayed

    @torch.no_grad()
    def learn(self, x: Tensor, target: Tensor) -> Outcome:
        """Look up the delayed errors, learn from them, and remember today's."""
        never = 1 / self.classes - classes_of(target, self.classes, self.delayed.dtype)
        if self.samples is None:
            self.error = never
            return super().learn(x, target)
        missing = int(self.samples.max()) + 1 - len(self.delayed)
        if missing > 0:
            room = max(missing, len(self.delayed))  # doubling: an epoch grows it a few times only
            self.delayed = torch.cat([self.delayed, self.delayed.new_full((room, self.classes), torch.nan)])
        known = self.delayed[self.samples]
        self.error = torch.where(known.isnan(), never, known)
        outcome = super().learn(x, target)
        self.delayed[self.samples] = output_error(outcome.logits, target)
        return outcome

    def credit(self, i: int, target: Tensor) -> Tensor:
        """The delayed error through the layer's map."""
        return self.projected(i, self.error)

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        kept = state.get(f"{prefix}delayed")
        if kept is not None:  # as many rows as samples were seen
            self.delayed = self.delayed.new_zeros(kept.shape)
        super()._load_from_state_dict(state, prefix, *rest)
