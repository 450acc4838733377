"""Frozen hidden layers: the control that every rule has to beat."""

import torch
from torch import Tensor

from edgepep.rule import Outcome, Rule, Traits, output_error


class FrozenHidden(Rule):
    """Only the last layer learns, from its own error; what lies before it stays random.

    Wide random layers with a trained readout do well on easy data, so an accuracy says little until it is compared
    with this.
    """

    source = "control"
    traits = Traits("1 forward", False, "nothing", "nothing", "A2")
    replayable = True

    @torch.no_grad()
    def learn(self, x: Tensor, target: Tensor) -> Outcome:
        """Run forward once; the last layer learns."""
        output = self.network.chain[-1]
        for activity in self.network.stream(x, currents="all" if output.over_time else "none"):
            pre, kept, post = activity.pre, output.kept(activity), activity.post
            del activity
        logits = self.network.readout(post)
        output.learn(pre, output.error_at_current(kept, output_error(logits, target)), 1 / target.shape[0])
        return Outcome(logits, target)
