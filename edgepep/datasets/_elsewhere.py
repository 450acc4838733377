"""Data sets known by their shape only, so that their networks can be profiled."""

from edgepep.errors import DataError


def not_loaded(name: str, scripts: str) -> DataError:
    """What is raised when such a set is asked for."""
    return DataError(
        f"{name} is known by its shape only, so that its network can be profiled. Its data are prepared by the "
        f"scripts of {scripts}; train on another set with --dataset."
    )
