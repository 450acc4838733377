"""Forward passes: what the rules are made of."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import prod

from edgepep.c99.schedule import Schedule, Value
from edgepep.c99.table import Stage


class Pass:
    """One pass over the layers, which keeps no answer longer than the layers that read it, but those it is told to.

    Args:
        schedule: to which calls are added.
        name: with which its values' names begin.
        kept: layers whose answers must not be written over; all of what they read stays too.
        until: the layer after which the pass stops.
        whole: nothing is written over that is between the parts of a preparation.

    """

    def __init__(
        self,
        schedule: Schedule,
        name: str,
        kept: Collection[int] = (),
        until: int | None = None,
        *,
        whole: bool = False,
    ) -> None:
        self.schedule, self.name, self.kept, self.whole = schedule, name, kept, whole
        self.posts: dict[int, Value] = {}
        last = len(schedule.stages) - 1 if until is None else until
        self.last_use = {s: stage.index for stage in schedule.stages[: last + 1] for s in stage.sources}

    def read(self, stage: Stage, x: Value | None = None) -> Value:
        """What a layer's synapses are given: its sources summed and pooled; of the first, x pooled."""
        pre = self.summed(stage) if stage.sources else x
        assert pre is not None  # the first layer is given x
        for i, pool in enumerate(stage.pools):
            free = (pre not in self.posts.values() and not self.whole) or self._free(stage)
            name, size = f"{self.name}{stage.index}_pool{i or ''}", prod(pool.out_shape)
            pooled = Value(name, size, pre if free and pool.in_place else None)
            if pool.kind == "round":
                grid = (f"{float(pool.scale).hex()}f", *(f"{bound:.1f}f" for bound in pool.bounds))
                self.schedule.call("ep_round", str(size), pre, pooled, *grid)
            else:
                self.schedule.call(f"ep_{pool.kind}", f"&pool_{stage.index}_{i}", pre, pooled)
            pre = pooled
        return pre

    def _free(self, stage: Stage) -> bool:
        """Whether what a layer reads, if it is one answer, is needed by nothing else."""
        return all(self.last_use[s] == stage.index and s not in self.kept for s in stage.sources)

    def summed(self, stage: Stage) -> Value:
        """The sum of the answers that a layer reads, over one of them that nothing else needs."""
        first, *others = stage.sources
        total = self.posts[first]
        for number, source in enumerate(others):
            relu = stage.relu and stage.kind == "sum" and number == len(others) - 1
            total = self._add(stage, total, self.posts[source], (first, source) if number == 0 else (), relu)
        return total

    def _add(self, stage: Stage, a: Value, b: Value, sources: Sequence[int], relu: bool) -> Value:
        free = [s for s in sources if self.last_use[s] == stage.index and s not in self.kept]
        over = self.posts[free[0]] if free else None if sources else a
        total = Value(f"{self.name}{stage.index}_sum", a.size, over)
        self.schedule.call("ep_add", str(a.size), a, b, total, str(int(relu)))
        return total

    def answer(self, stage: Stage, pre: Value) -> Value:
        """Run a layer's synapses and neurons."""
        if stage.kind == "sum":
            post = pre
        else:
            post = Value(f"{self.name}{stage.index}", stage.size)
            self.schedule.call(f"ep_{stage.kind}", f"&layer_{stage.index}", pre, post, macs=stage.macs)
        self.posts[stage.index] = post
        return post

    def run(self, stage: Stage, x: Value | None = None) -> tuple[Value, Value]:
        """Run a layer: what its synapses are given, and its answer."""
        pre = self.read(stage, x)
        return pre, self.answer(stage, pre)
