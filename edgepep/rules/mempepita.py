"""MEMPEPITA: PEPITA that repeats the first pass rather than remember it."""

from collections import deque
from collections.abc import Iterator
from itertools import chain

from torch import Tensor

from edgepep.network import Activity, Layer
from edgepep.phases import AGAIN
from edgepep.rule import Traits
from edgepep.rules.pepita import Kept, drain
from edgepep.rules.pepita import Pepita as _Pepita


class Mempepita(_Pepita):
    """PEPITA in memory that does not grow with depth, for one more forward pass.

    Only the error outlives the first pass. A second, lazy first pass runs beside the modulated one, layer by layer,
    each layer being updated after both have used it; the weights are PEPITA's, bit for bit.

    Args:
        network: what learns.
        example: one batch of inputs [batch, ...].
        **options: PEPITA's.

    """

    traits = Traits("3 forward", False, "nothing", "output error, in the input", "A2 + F (A2, from a seed)")
    source = "Pau & Aymone 2023 (COINS, doi 10.1109/COINS57856.2023.10189239)"

    def owns(self, layer: Layer, h: Tensor) -> bool:
        """The next layer of the repeated pass reads it."""
        return False

    def first_pass(self, x: Tensor) -> tuple[Activity, Iterator[Kept], Tensor]:
        """Logits now; each layer's activity when it is asked for."""
        logits = self.network(x)
        again = self.network.stream(x, AGAIN, self.currents)
        start = next(again)
        head = drain(deque([self.keep(self.network.chain[0], start)]))
        return start, chain(head, self.keep_others(again)), logits
