"""A network and its rule as C99 for a device: a table of layers, a schedule of calls, one static arena.

`table`, `preparation`, `heads` and `feedback` read a network and a rule; `rules`, `passes` and `backward` write down
what is called on what, `schedule` finds each value a place; `source` and `layout` write it all as C, `blob` keeps
weights, `host` and `boards` run what was written.
"""

from edgepep.c99.blob import read, write
from edgepep.c99.project import Plan, plan, save

__all__ = ["Plan", "plan", "read", "save", "write"]
