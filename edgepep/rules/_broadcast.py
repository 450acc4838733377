"""Errors and targets sent to every layer at once, through fixed random maps."""

from torch import Tensor, nn

from edgepep.feedback import Feedback, Storage
from edgepep.network import Network
from edgepep.phases import PROJECTION, phase
from edgepep.rule import Rule, like, survey


class Broadcast(Rule):
    """A rule whose hidden layers each get their credit straight from the output's classes.

    Args:
        network: what learns.
        example: one batch of inputs [batch, ...].
        feedback_scale: each map is uniform on +-feedback_scale / sqrt(classes).
        form: for posts with positions: "full", a map to every value of the post; "channel", one value a channel, the
            same at every position.
        storage: how the maps are kept: "float", "int8", "sign", or not at all: "seed".
        seed: of the maps.

    """

    replayable = True

    def __init__(
        self, network: Network, example: Tensor, feedback_scale: float, form: str, storage: Storage, seed: int
    ) -> None:
        super().__init__(network, example)
        _, *posts = survey(network, example)
        classes, self.form = posts[-1][0], form
        self.classes = classes
        self.feedback = nn.ModuleDict()
        for i, (layer, post) in enumerate(zip(network.chain[:-1], posts, strict=False)):
            if layer.learns:
                shape = post if form == "full" else (post[0], *[1] * (len(post) - 1))
                bound = feedback_scale * classes**-0.5
                self.feedback[str(i)] = Feedback((classes, *shape), bound, seed, i, like(network), storage)

    def projected(self, i: int, signal: Tensor) -> Tensor:
        """What layer i is sent: signal [batch, classes] through its map."""
        with phase(PROJECTION, self.network.chain[i].name):
            rows: Tensor = self.feedback[str(i)]()
            return (signal @ rows.flatten(1)).view(signal.shape[0], *rows.shape[1:])

    def looked_up(self, i: int, target: Tensor) -> Tensor:
        """What layer i is sent for one-hot signals: rows of its map, without a product."""
        with phase(PROJECTION, self.network.chain[i].name):
            rows: Tensor = self.feedback[str(i)]()
            return rows[target]
