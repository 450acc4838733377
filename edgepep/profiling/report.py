"""The profile as a page of text: rules side by side, backprop first."""

from edgepep.models import Recipe
from edgepep.phases import AGAIN, ALIGN, BACKWARD, FORWARD, PROJECTION, SECOND, UPDATE
from edgepep.profiling.observe import FEEDBACK, GRADIENTS, KEPT, OPTIMIZER, PARAMETERS, ROLLING, profile

PHASES = [FORWARD, SECOND, AGAIN, PROJECTION, BACKWARD, UPDATE, ALIGN]
MEMORY = [PARAMETERS, KEPT, ROLLING, FEEDBACK, GRADIENTS, OPTIMIZER]
_LABEL, _COLUMN = 32, 15


def compare(recipe: Recipe, rules: list[str], batch: int) -> str:
    """Costs of one training step under each rule, and their ratio to the first."""
    in_place = [profile(recipe, rule, batch=batch) for rule in rules]
    held = [profile(recipe, rule, batch=batch, in_place=False) for rule in rules]
    phases = [*PHASES, *sorted({p for c in in_place for p in c.macs} - set(PHASES))]
    lines = [
        f"One training step of {recipe.name}, batch {batch}, 32-bit floats, SGD with momentum.",
        "Counted from the step itself, run once under observation.",
        "",
        _row("multiply-accumulates", rules),
        *(
            _row(f"  {p}", [_count(c.macs.get(p, 0)) for c in in_place])
            for p in phases
            if any(p in c.macs for c in in_place)
        ),
        *_total("  total", [c.total_macs for c in in_place], _count),
        "",
        _row("memory at the peak, kB", ["in " + _short(c.moment) for c in in_place]),
        *(_row(f"  {kind}", [_kilobytes(c.memory[kind]) for c in in_place]) for kind in MEMORY),
        *_total("  total", [c.total_memory for c in in_place], _kilobytes),
        *_total("  total, gradients held", [c.total_memory for c in held], _kilobytes),
        "",
        "Memory: what one step needs when each layer's update is applied at once (backprop:",
        "optimizer in backward); the last total is with every gradient held in .grad for a",
        "torch optimizer. 1 kB = 1000 bytes.",
    ]
    if "pepita" in rules:
        lines += ["PEPITA keeps every layer's activity, as backprop does; MEMPEPITA repeats the first pass."]
    return "\n".join(lines)


def _row(label: str, cells: list[str]) -> str:
    return f"{label:<{_LABEL}}" + "".join(f"{cell:>{_COLUMN}}" for cell in cells)


def _total(label: str, values: list[int], show: object) -> list[str]:
    ratios = [f"{value / values[0]:.2f}" for value in values]
    return [_row(label, [show(value) for value in values]), _row(f"{label}, ratio", ratios)]  # type: ignore[operator]


def _count(n: int) -> str:
    return f"{n:,}"


def _kilobytes(n: int) -> str:
    return f"{n / 1000:,.1f}"


def _short(moment: str) -> str:
    return moment.replace("second forward pass", "second pass")
