"""Names for the parts of a training step, so that whoever watches the step can say where a cost arose."""

STEP = "rest of the step"
FORWARD = "forward pass"
SECOND = "second forward pass"
AGAIN = "repeated first pass"
PROJECTION = "projection"
BACKWARD = "backward"
UPDATE = "update"
ALIGN = "feedback update"
DRAW = "feedback drawn"

_current = ["", ""]
_drawn = [0]


class phase:
    """Context manager that names the part of the step under way, and the layer; costs a fraction of a microsecond."""

    __slots__ = ("layer", "name", "outer", "within")

    def __init__(self, name: str, layer: str = "") -> None:
        self.name, self.layer = name, layer

    def __enter__(self) -> None:
        self.outer, self.within = _current
        _current[0], _current[1] = self.name, self.layer

    def __exit__(self, *_: object) -> None:
        _current[0], _current[1] = self.outer, self.within


def current() -> str:
    """Name of the part of the step under way, "" outside one."""
    return _current[0]


def current_layer() -> str:
    """Name of the layer at work, "" if it is none or not said."""
    return _current[1]


def count_draws(number: int) -> None:
    """Note that random numbers were drawn; not if a graph is traced, in which their number is left free."""
    if isinstance(number, int):
        _drawn[0] += number


def draws() -> int:
    """Random numbers drawn so far."""
    return _drawn[0]
