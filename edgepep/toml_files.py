"""Reading TOML files, with an error that names the file."""

import re
import sys
from pathlib import Path
from typing import Any

from edgepep.errors import EdgepepError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


MOST = 1 << 18  # bytes


def read(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        EdgepepError: if it cannot be read, is longer than 256 KiB, or is not TOML.

    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST + 1)
        if len(content) > MOST:
            raise EdgepepError(f"{path} has more than {MOST} bytes.")
        table: dict[str, Any] = tomllib.loads(content.decode("utf-8").replace("\r\n", "\n"))
    except OSError as error:
        raise EdgepepError(f"cannot read {path}: {error.strerror}.") from error
    except (ValueError, RecursionError, OverflowError) as error:  # TOML's own, of UTF-8, and of numbers and dates
        raise EdgepepError(f"{path}: not TOML: {error}.") from error
    return table


_OUTSIDE = re.compile(r"(?<=^rules\.)[^:]+:[^.]*")  # package.module:Name


def nested(settings: dict[str, Any]) -> dict[str, Any]:
    """Tables within tables from values by their place, such as {"training.epochs": 5}.

    The name of a rule outside edgepep keeps its dots: "rules.package.module:Name.gain".

    Raises:
        EdgepepError: if one place is a value and holds another.

    """
    tables: dict[str, Any] = {}
    for key, value in settings.items():
        outside = _OUTSIDE.search(key)
        name = outside[0] if outside else ""
        *path, last = (name if part == ":" else part for part in (key.replace(name, ":") if name else key).split("."))
        table = tables
        for part in path:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                break
        if not isinstance(table, dict) or last in table:
            raise EdgepepError(f"{key} is set twice, by itself and by a table that holds it.")
        table[last] = value
    return tables


def value_of(word: str) -> Any:
    """Value that a word on the command line stands for: a TOML number, boolean, list or table, else the word itself."""
    try:
        return tomllib.loads(f"value = {word}")["value"]
    except tomllib.TOMLDecodeError:
        return word
