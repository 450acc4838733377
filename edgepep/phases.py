"""Names for the parts of a training step, so that whoever watches the step can say where a cost arose."""

FORWARD = "forward pass"
SECOND = "second forward pass"
AGAIN = "repeated first pass"
PROJECTION = "projection"
BACKWARD = "backward"
UPDATE = "update"
ALIGN = "feedback update"

_current = [""]


class phase:
    """Context manager that names the part of the step under way; costs a fraction of a microsecond."""

    __slots__ = ("name", "outer")

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        self.outer = _current[0]
        _current[0] = self.name

    def __exit__(self, *_: object) -> None:
        _current[0] = self.outer


def current() -> str:
    """Name of the part of the step under way, "" outside one."""
    return _current[0]
