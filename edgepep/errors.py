"""What can go wrong, as types: each message names the thing, its value and what is allowed."""


class EdgepepError(Exception):
    """Any error that the user of edgepep can mend; the command line prints it on one line and exits with 2."""

    code: int = 2
    """The command line's exit code."""


class UnknownName(EdgepepError, LookupError):
    """A rule, recipe, data set or target that does not exist."""


class RecipeError(EdgepepError, ValueError):
    """A recipe with a wrong key, type or shape."""


class ConversionError(EdgepepError, TypeError):
    """A module that cannot be made a network: the message names it and what could be done."""


class DataError(EdgepepError):
    """Data that are missing, damaged or out of range."""


class DivergenceError(EdgepepError, ArithmeticError):
    """Training that no longer computes finite numbers."""


class RunError(EdgepepError):
    """A run directory that cannot be used as asked."""


class Lost(RunError):
    """One of several processes hears another no more: that one has failed, or was killed."""


class StateError(EdgepepError):
    """A learned state that is damaged, of another version, or of another network."""


class ExportError(EdgepepError):
    """A network that cannot be written in a form, or a written file that does not agree with the network."""


class Stopped(EdgepepError):
    """Training that was asked to stop by a signal, and has kept its state; exit code 128 + the signal's number."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal, self.code = signal, 128 + signal

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self), self.signal)
