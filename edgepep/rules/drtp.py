"""Direct random target projection: the label goes to every layer, which learns while the forward pass runs."""

import torch
from torch import Tensor

from edgepep.feedback import Storage
from edgepep.network import Network
from edgepep.rule import Outcome, Traits, one_of, output_error
from edgepep.rules._broadcast import Broadcast


class Drtp(Broadcast):
    """Every hidden layer learns from the label through a fixed random map, at once when the forward pass reaches it.

        d_l = (t D_l) * f'(z_l), t one-hot;    d_L = e;    dW_l = d_l^T h_(l-1), averaged over the batch

    The label stands in for the error's sign. As t is one-hot, t D_l is a row of the map, looked up without a product,
    and as no layer waits for the output, no activity outlives the next layer. The published networks have tanh units;
    with ReLU use small rates.

    Args:
        network: what learns.
        example: one batch of inputs [batch, ...].
        form: for convolutions, "full": a map to every value of the post; "channel": one number a class and channel.
        feedback_scale: each map is uniform on +-feedback_scale / sqrt(classes).
        storage: how the maps are kept: "float", "int8", "sign", or not at all: "seed".
        seed: of the maps.

    Raises:
        EdgepepError: if an option is none of its values.

    """

    source = "Frenkel, Lefebvre & Bol 2021"
    reads_weights = False
    traits = Traits("1 forward", False, "nothing", "label, f'", "A2 + maps (A2, from a seed)")

    def __init__(
        self,
        network: Network,
        example: Tensor,
        *,
        form: str = "full",
        feedback_scale: float = 1.0,
        storage: Storage = "float",
        seed: int = 0,
    ) -> None:
        one_of("form", form, "full", "channel")
        super().__init__(network, example, feedback_scale, form, storage, seed)

    @torch.no_grad()
    def learn(self, x: Tensor, target: Tensor) -> Outcome:
        """Run forward once; each layer learns as soon as the next has its answer."""
        scale, last = 1 / target.shape[0], len(self.network.chain) - 1
        for i, (layer, activity) in enumerate(zip(self.network.chain, self.network.stream(x), strict=True)):
            pre, kept, post = activity.pre, layer.kept(activity), activity.post
            del activity
            if i == last:
                logits = self.network.readout(post)
                credit = output_error(logits, target)
            elif layer.learns:
                credit = self.credit(i, target)
            else:
                continue
            layer.learn(pre, layer.error_at_current(kept, credit), scale)
            del pre, kept, post, credit
        return Outcome(logits, target)

    def credit(self, i: int, target: Tensor) -> Tensor:
        """What layer i is sent before the output is known."""
        return self.looked_up(i, target)
