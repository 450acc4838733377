"""Training steps as schedules, for one sample: PEPITA, MEMPEPITA, DFA, DRTP, local heads, the last layer; no chain.

What is fused: the second pass of a layer, its update and the release of its answer are one call, unit after unit, so
that the second answer is written over the first. The last layer's second answer is not needed, and not computed.
DFA's credits are written over the answers that they are of. DRTP and local heads keep nothing but what the next layer
reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgepep.c99.backward import backprop
from edgepep.c99.heads import Head
from edgepep.c99.passes import Pass
from edgepep.c99.schedule import FINITE, Schedule, Value
from edgepep.c99.table import Stage
from edgepep.errors import ExportError

STEP, NEXT = "ep_steps", "ep_steps + 1u"
"""The argument by which kernels tell updates apart, after the step is counted, with the error, and before."""


def inference(stages: Sequence[Stage]) -> Schedule:
    """One forward pass; the last value is the logits."""
    schedule = Schedule(stages)
    walk = Pass(schedule, "h")
    for stage in stages:
        _, logits = walk.run(stage, schedule.input)
    schedule.call("said = ep_largest", str(logits.size), logits)
    schedule.logits = logits
    return schedule


def pepita(stages: Sequence[Stage]) -> Schedule:
    """Two passes; the answers of hidden layers that learn are kept from the first to the second."""
    schedule = Schedule(stages)
    hidden = [stage.index for stage in stages[:-1] if stage.learns]
    first = Pass(schedule, "h", kept=[*hidden, *_modulated_again(stages)])
    start = first.read(stages[0], schedule.input)
    for stage in stages:
        pre = start if stage.index == 0 else first.read(stage)
        logits = first.answer(stage, pre)
    error = _error(schedule, logits)
    modulated = _modulate(schedule, start, error, over=start)
    second = Pass(schedule, "g")
    for stage in stages[:-1]:
        pre = modulated if stage.index == 0 else second.read(stage)
        if stage.learns:
            kept = first.posts[stage.index]
            second.posts[stage.index] = _pair(schedule, stage, pre, kept, kept)
        else:
            second.answer(stage, pre)
    _learn_last(schedule, stages, modulated if len(stages) == 1 else second.read(stages[-1]), error)
    return schedule


def mempepita(stages: Sequence[Stage]) -> Schedule:
    """Three passes; of the first only the error is kept, and the first and the second are then run side by side."""
    schedule = Schedule(stages)
    hidden = [stage.index for stage in stages[:-1] if stage.learns]
    top = max(hidden, default=-1)
    walk = Pass(schedule, "h", kept=_modulated_again(stages))
    start = walk.read(stages[0], schedule.input)
    for stage in stages:
        logits = walk.answer(stage, start if stage.index == 0 else walk.read(stage))
    error = _error(schedule, logits)
    modulated = _modulate(schedule, start, error, over=None if hidden else start)
    again, second = Pass(schedule, "r", until=top), Pass(schedule, "g")
    for stage in stages[:-1]:
        i = stage.index
        repeated: Value | None = None
        if i <= top:
            repeated = again.answer(stage, start if i == 0 else again.read(stage))
        pre = modulated if i == 0 else second.read(stage)
        if stage.learns and repeated is not None:
            needed = again.last_use.get(i, -1) > i
            second.posts[i] = _pair(schedule, stage, pre, repeated, None if needed else repeated)
        else:
            second.answer(stage, pre)
    _learn_last(schedule, stages, modulated if len(stages) == 1 else second.read(stages[-1]), error)
    return schedule


def dfa(stages: Sequence[Stage]) -> Schedule:
    """One pass that keeps what is read or cut off; then each layer, from last to first, by the error and a map."""
    schedule = Schedule(stages)
    kept = {source for stage in stages if stage.kind != "sum" for source in stage.sources}
    kept |= {stage.index for stage in stages if stage.learns and stage.relu}
    walk = Pass(schedule, "h", kept=kept)
    pres = [walk.run(stage, schedule.input) for stage in stages]
    error = _error(schedule, pres[-1][1])
    _learn_last(schedule, stages, pres[-1][0], error)
    for stage in reversed(stages[:-1]):
        if stage.learns:
            pre, h = pres[stage.index]
            credit = Value(f"d{stage.index}", h.size, h if stage.index in kept else None)
            sizes, cut = (str(h.size), str(error.size)), h if stage.relu else "0"
            drawn = (*_map(stage), str(int(stage.relu)))
            schedule.call("ep_send", *sizes, error, cut, credit, *drawn, macs=h.size * error.size)
            _learn(schedule, stage, pre, credit, STEP)
    return schedule


def drtp(stages: Sequence[Stage]) -> Schedule:
    """One pass, in which each layer learns from the label as soon as it has answered."""
    schedule = Schedule(stages)
    walk = Pass(schedule, "h")
    schedule.call(FINITE, str(schedule.input.size), schedule.input)
    for stage in stages:
        pre, h = walk.run(stage, schedule.input)
        if stage.learns and stage is not stages[-1]:
            room = [Value(f"room{stage.index}", h.size // stage.out_shape[0])] if stage.kind == "conv" else []
            given = (pre, h if stage.relu else "0", "target", *_map(stage), f"rate_{stage.index}", NEXT, *room)
            schedule.call(FINITE, str(h.size), h)
            schedule.call(f"ep_{stage.kind}_aim", f"&layer_{stage.index}", *given, macs=stage.macs)
    _learn_last(schedule, stages, pre, _error(schedule, h))
    return schedule


def local_heads(stages: Sequence[Stage]) -> Schedule:
    """One pass, in which each layer learns from its own head's error as soon as it has answered; so does the head."""
    schedule = Schedule(stages)
    walk = Pass(schedule, "h")
    schedule.call(FINITE, str(schedule.input.size), schedule.input)
    for stage in stages:
        pre, h = walk.run(stage, schedule.input)
        if stage.learns and stage.head is not None:
            _by_head(schedule, stage, stage.head, pre, h)
    _learn_last(schedule, stages, pre, _error(schedule, h))
    return schedule


def _by_head(schedule: Schedule, stage: Stage, head: Head, pre: Value, h: Value) -> None:
    i, pooled = stage.index, h
    own = f"&head_{i}"
    if head.size < h.size:
        pooled = Value(f"p{i}", head.size)
        schedule.call(f"ep_{'max' if head.largest else 'mean'}_pool", f"{own}.pool", h, pooled)
    error = Value(f"e{i}", head.classes)
    schedule.call("ep_head_error", own, pooled, "target", error)
    schedule.call(FINITE, str(h.size), h)
    schedule.call(FINITE, str(error.size), error)
    room = [Value(f"room{i}", h.size // stage.out_shape[0] + head.cells)] if stage.kind == "conv" else []
    given: list[Value | str] = [pre, h, *([pooled] if room else []), error, f"rate_{i}", NEXT, *room]
    passes = 2 if head.strength and stage.relu else 1  # the current is asked for again where ReLU cut it off, at most
    schedule.call(f"ep_{stage.kind}_head", f"&layer_{i}", own, *given, macs=passes * stage.macs + head.macs)
    if head.weights is not None:
        schedule.call("ep_head_learn", own, pooled, error)


def last_layer(stages: Sequence[Stage]) -> Schedule:
    """One pass, then the last layer by its own error."""
    schedule = Schedule(stages)
    walk = Pass(schedule, "h")
    for stage in stages:
        pre, logits = walk.run(stage, schedule.input)
    _learn_last(schedule, stages, pre, _error(schedule, logits))
    return schedule


def _modulated_again(stages: Sequence[Stage]) -> list[int]:
    """A first layer that only prepares the input, whose answer PEPITA modulates after the first pass."""
    return [0] if stages[0].kind == "sum" else []


def _error(schedule: Schedule, logits: Value) -> Value:
    error = Value("e", logits.size, logits)
    schedule.call("said = ep_largest", str(logits.size), logits)
    schedule.call("ep_output_error", str(logits.size), logits, "target")
    return error


def _modulate(schedule: Schedule, x: Value, error: Value, over: Value | None) -> Value:
    modulated = Value("g_x", x.size, over)
    sizes = str(x.size), str(error.size)
    schedule.call("ep_modulate", *sizes, x, error, modulated, "F_KEY", "F_BOUND", macs=x.size * error.size)
    return modulated


def _pair(schedule: Schedule, stage: Stage, pre: Value, h: Value, over: Value | None) -> Value:
    g = Value(f"g{stage.index}", stage.size, over)
    room: list[Value] = [Value(f"room{stage.index}", stage.fan)] if stage.kind == "conv" else []
    rest: tuple[Value | str, ...] = (f"rate_{stage.index}", STEP, *room)
    schedule.call(f"ep_{stage.kind}_pair", f"&layer_{stage.index}", pre, h, g, *rest, macs=2 * stage.macs)
    return g


def _learn_last(schedule: Schedule, stages: Sequence[Stage], pre: Value, error: Value) -> None:
    last = stages[-1]
    if not last.learns:
        raise ExportError(f"layer {last.name}, the output, rests; a rule in C changes it.")
    _learn(schedule, last, pre, error, STEP)


def _learn(schedule: Schedule, stage: Stage, pre: Value, delta: Value, step: str) -> None:
    rest = (f"rate_{stage.index}", step)
    schedule.call(f"ep_{stage.kind}_learn", f"&layer_{stage.index}", pre, delta, *rest, macs=stage.macs)


def _map(stage: Stage) -> tuple[str, ...]:
    """What a layer's own map is drawn from."""
    return f"D{stage.index}_KEY", f"D{stage.index}_BOUND"


RULES: dict[str, Callable[[Sequence[Stage]], Schedule]] = {
    "pepita": pepita,
    "mempepita": mempepita,
    "dfa": dfa,
    "drtp": drtp,
    "local_heads": local_heads,
    "last_layer": last_layer,
    "frozen_hidden": last_layer,
    "backprop": backprop,
}
"""By the name of edgepep's rule."""
