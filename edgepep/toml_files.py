"""Reading TOML files, with an error that names the file."""

import sys
from pathlib import Path
from typing import Any

from edgepep.errors import EdgepepError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        EdgepepError: if it cannot be read, or is not TOML.

    """
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EdgepepError(f"cannot read {path}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise EdgepepError(f"{path}: not TOML: {error}.") from error
    return table


def value_of(word: str) -> Any:
    """Value that a word on the command line stands for: a TOML number, boolean, list or table, else the word itself."""
    try:
        return tomllib.loads(f"value = {word}")["value"]
    except tomllib.TOMLDecodeError:
        return word
