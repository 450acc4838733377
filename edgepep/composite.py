"""Different rules for different layers of one network."""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from edgepep.errors import EdgepepError
from edgepep.layer import Layer
from edgepep.network import Network
from edgepep.rule import Outcome, Rule

Make = Callable[[Network, Tensor], Rule]
"""A rule's class, or a partial of it with some options."""


class PerLayer(Rule):
    """Each layer learns by the rule of the first pattern that its name matches; the others rest meanwhile.

    Every step runs the rules one after the other, each on the whole network, so it costs their sum; where layers have
    an in-place updater, a rule sees what those before it have changed in this step.

    Args:
        network: what learns.
        example: one batch of inputs [batch, ...].
        rules: from a pattern of layers' names, or several with commas between, to what makes a rule of
            (network, example).

    Raises:
        EdgepepError: if a pattern matches no layer, or a layer that learns has no rule.

    """

    def __init__(self, network: Network, example: Tensor, rules: Mapping[str, Make]) -> None:
        super().__init__(network, example)
        left = [layer for layer in network.chain if layer.learns]
        self.own: list[set[Layer]] = []
        self.rules = nn.ModuleList()
        for pattern, make in rules.items():
            named = [layer for one in pattern.split(",") for layer in network.select(one.strip())]
            mine = {layer for layer in named if layer in left}
            left = [layer for layer in left if layer not in mine]
            self.own.append(mine)
            with _Resting(network, mine):
                rule = make(network, example)
            del rule.network  # the network is this rule's: once in its state, not once for each part
            object.__setattr__(rule, "network", network)
            self.rules.append(rule)
        self.replayable = all(rule.replayable for rule in self._rules())
        if left:
            raise EdgepepError(f"no rule for {', '.join(layer.name for layer in left)}; add a pattern such as '*'.")

    def learn(self, x: Tensor, target: Tensor) -> Outcome:
        """Run each rule on its layers; what the last one says is the outcome."""
        for rule, mine in zip(self._rules(), self.own, strict=True):
            rule.samples = self.samples
            with _Resting(self.network, mine):
                outcome = rule.learn(x, target)
        return outcome

    @property
    def asks_the_network(self) -> bool:
        """As the last rule."""
        return self._rules()[-1].asks_the_network

    def risks(self, x: Tensor, target: Tensor) -> list[str]:
        """Those of all its rules."""
        return [risk for rule in self._rules() for risk in rule.risks(x, target)]

    def modulation(self, x: Tensor, target: Tensor) -> float | None:
        """The largest of its rules."""
        found = [rule.modulation(x, target) for rule in self._rules()]
        return max((value for value in found if value is not None), default=None)

    def feedback_matrices(self) -> dict[int, Tensor]:
        """Each layer's from its own rule."""
        chain = self.network.chain
        return {
            i: matrix
            for rule, mine in zip(self._rules(), self.own, strict=True)
            for i, matrix in rule.feedback_matrices().items()
            if chain[i] in mine
        }

    def _rules(self) -> list[Rule]:
        return [rule for rule in self.rules if isinstance(rule, Rule)]

    def predict(self, x: Tensor) -> Tensor:
        """Scores by the last rule's way of asking the network."""
        return self._rules()[-1].predict(x)


class _Resting:
    """Context in which all layers but some rest."""

    def __init__(self, network: Network, but: set[Layer]) -> None:
        self.layers = [layer for layer in network.chain if layer not in but and not layer.resting]

    def __enter__(self) -> None:
        for layer in self.layers:
            layer.resting = True

    def __exit__(self, *_: object) -> None:
        for layer in self.layers:
            layer.resting = False
