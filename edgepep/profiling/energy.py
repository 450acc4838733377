"""Energy, as an estimate from a named table of picojoules an operation and a byte."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgepep import plugins
from edgepep.errors import EdgepepError
from edgepep.toml_files import read

TABLES = Path(__file__).parent / "energy.toml"


@dataclass(frozen=True)
class CostTable:
    """Picojoules of a multiply-accumulate and of an addition, by precision, and of a byte moved."""

    name: str
    source: str
    mac: dict[str, float]
    add: dict[str, float]
    byte: float

    def microjoules(self, macs: float, additions: float, moved: float, precision: str) -> float:
        """Estimate for so many operations and bytes."""
        if precision not in self.mac or precision not in self.add:
            raise EdgepepError(f"the cost table {self.name} has no {precision}; it has {', '.join(self.mac)}.")
        return (macs * self.mac[precision] + additions * self.add[precision] + moved * self.byte) / 1e6


def table(name: str) -> CostTable:
    """Find a cost table by its name, or read the one table of a .toml file of the user's.

    Raises:
        EdgepepError: if there is none, or it lacks a key.

    """
    path = Path(name) if name.endswith(".toml") else TABLES
    tables = read(path)
    if path == TABLES:
        plugins.check("cost table", name, tables)
    elif len(tables) != 1:
        raise EdgepepError(f"{path} has {len(tables)} tables; it should have one: [name], source, mac, add, byte.")
    name = name if path == TABLES else next(iter(tables))
    try:
        own = tables[name]
        mac, add = ({key: float(value) for key, value in own[what].items()} for what in ("mac", "add"))
        return CostTable(name, str(own["source"]), mac, add, float(own["byte"]))
    except KeyError as error:
        raise EdgepepError(f"{path}: [{name}] needs source, mac, add and byte: {error} is missing.") from error
    except (TypeError, ValueError, AttributeError) as error:
        said = "mac and add are tables of numbers by precision, byte a number"
        raise EdgepepError(f"{path}: [{name}] needs source, mac, add and byte: {said} ({error}).") from error
