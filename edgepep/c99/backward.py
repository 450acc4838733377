"""Backpropagation as a schedule: each layer's error is written over the answer that it is the error of."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from edgepep.c99.passes import Pass
from edgepep.c99.schedule import Schedule, Value
from edgepep.c99.table import Stage
from edgepep.errors import ExportError

NONE = "0"


def backprop(stages: Sequence[Stage]) -> Schedule:
    """One pass that keeps what its way back asks for, and the walk back, in which no gradient is held."""
    schedule = Schedule(stages)
    lowest = next((stage.index for stage in stages if stage.learns), None)
    if lowest is None:
        raise ExportError("every layer rests; there is nothing to train.")
    rounded = [stage.name for stage in stages if any(pool.kind == "round" for pool in stage.pools)]
    if rounded:
        raise ExportError(f"layer {rounded[0]} reads rounded activities, through which backprop in C has no way.")
    resting = [stage.name for stage in stages[lowest:] if stage.kind != "sum" and not stage.learns]
    if resting:
        raise ExportError(
            f"layer {resting[0]} rests above one that learns; in C the error goes down through layers that learn only."
        )
    read = {source for stage in stages if stage.kind != "sum" for source in stage.sources}
    walk = Pass(schedule, "h", kept=read | {stage.index for stage in stages if stage.relu}, whole=True)
    pres = [walk.run(stage, schedule.input) for stage in stages]
    logits = pres[-1][1]
    error = Value("e", logits.size, logits)
    schedule.call("said = ep_largest", str(logits.size), logits)
    schedule.call("ep_output_error", str(logits.size), logits, "target")
    _Back(schedule, walk, [pre for pre, _ in pres], lowest).walk(error)
    return schedule


class _Back:
    """The walk back, from the last layer to the lowest that learns."""

    def __init__(self, schedule: Schedule, forward: Pass, pres: list[Value], lowest: int) -> None:
        self.schedule, self.stages, self.posts, self.pres = schedule, schedule.stages, forward.posts, pres
        self.lowest = lowest
        self.first_use: dict[int, int] = {}
        for stage in reversed(self.stages):
            for source in stage.sources:
                self.first_use[source] = stage.index
        self.pending: dict[int, list[Value]] = {}
        self.delta: dict[int, Value] = {}

    def walk(self, error: Value) -> None:
        """Call what changes each layer and says the error below it."""
        self.delta[len(self.stages) - 1] = error
        for stage in reversed(self.stages[self.lowest :]):
            i = stage.index
            if i not in self.delta:
                if i not in self.pending:
                    continue
                self.delta[i] = self.closed(stage)
            delta = self.delta[i]
            wanted = [s for s in stage.sources if s >= self.lowest]
            if stage.kind == "sum":
                for source in wanted:
                    self.pending.setdefault(source, []).append(delta)
            elif wanted:
                self.back(stage, delta, wanted)
            else:
                rest = (f"rate_{i}", "ep_steps")
                self.schedule.call(f"ep_{stage.kind}_learn", f"&layer_{i}", self.pres[i], delta, *rest, macs=stage.macs)

    def closed(self, stage: Stage) -> Value:
        """The error at a layer's current, when all that read it have said theirs."""
        h, credits = self.posts[stage.index], self.pending.pop(stage.index)
        if not stage.relu and len(credits) == 1:
            return credits[0]
        total = self.merged(stage.index, credits[:-1])
        answer = Value(f"d{stage.index}", h.size, h)
        more: Value | str = NONE if total is None else total
        self.schedule.call("ep_gate", str(h.size), h, credits[-1], more, answer, str(int(stage.relu)))
        return answer

    def merged(self, index: int, credits: list[Value]) -> Value | None:
        """The sum of some errors, none of which is written over: others may still read them."""
        if len(credits) < 2:
            return credits[0] if credits else None
        total = Value(f"c{index}", credits[0].size)
        self.schedule.call("ep_add", str(total.size), credits[0], credits[1], total, "0")
        for credit in credits[2:]:
            self.schedule.call("ep_add", str(total.size), total, credit, total, "0")
        return total

    def back(self, stage: Stage, delta: Value, wanted: list[int]) -> None:
        """Change a layer, and write the error below it over what it was given, if nothing else reads that."""
        i = stage.index
        alone = wanted[0] if len(stage.sources) == 1 else None
        steps: list[tuple[str, str, Value]] = []
        given = self.summed(stage) if alone is None else self.posts[alone]
        for number, pool in enumerate(stage.pools):
            steps.append((f"ep_{pool.kind}_back", f"&pool_{i}_{number}", given))
            size = prod(pool.out_shape)
            given = self.pres[i] if number == len(stage.pools) - 1 else self.pooled(i, number, size)
        room: list[Value] = [Value(f"room{i}", stage.out_shape[0] // stage.groups * prod(stage.kernel))] * (
            stage.kind == "conv"
        )
        rest: tuple[Value | str, ...] = (f"rate_{i}", "ep_steps", *room)
        steps.append((f"ep_{stage.kind}_back", f"&layer_{i}", given))
        for depth, (kernel, table, before) in enumerate(reversed(steps)):
            bottom = depth == len(steps) - 1
            more, over, relu = self.way(stage, alone, before) if bottom else (NONE, before, False)
            credit = Value(f"d{i}_{depth}", before.size, over)
            own = rest if depth == 0 else ()
            macs = 2 * stage.macs if depth == 0 else 0
            self.schedule.call(kernel, table, before, delta, more, credit, str(int(relu)), *own, macs=macs)
            delta = credit
        if alone is not None and self.first_use[alone] == i:
            self.delta[alone] = delta
            return
        for source in wanted:
            self.pending.setdefault(source, []).append(delta)

    def way(self, stage: Stage, alone: int | None, before: Value) -> tuple[Value | str, Value | None, bool]:
        """What to add to the credit, what it may be written over, and whether to cut it off where x is 0."""
        if alone is None:  # a sum of answers, which is read here only
            return NONE, before, False
        if self.first_use[alone] != stage.index:
            return NONE, None, False
        more = self.merged(alone, self.pending.pop(alone, []))
        return NONE if more is None else more, before, self.stages[alone].relu

    def summed(self, stage: Stage) -> Value:
        """The sum that a layer was given, before its pools."""
        for call in self.schedule.calls:
            for value in call.arguments:
                if isinstance(value, Value) and value.name == f"h{stage.index}_sum":
                    return value
        raise AssertionError("a layer that reads several others is given their sum")

    def pooled(self, index: int, number: int, size: int) -> Value:
        """What came out of one of several pools."""
        for call in self.schedule.calls:
            for value in call.arguments:
                if isinstance(value, Value) and value.name == f"h{index}_pool{number or ''}":
                    return value
        raise AssertionError("a pool's answer is in the schedule")
