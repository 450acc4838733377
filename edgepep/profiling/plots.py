"""The profile as pictures: memory over the step, what the memory holds, and operations against memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgepep import durable
from edgepep.errors import EdgepepError
from edgepep.profiling.costs import RuleCosts
from edgepep.profiling.report import MEMORY
from edgepep.profiling.trace import living_at

_HATCHES = ("", "//", "..", "xx", "--", "++")
_LINES = ("-", "--", ":", "-.")


def check(path: Path) -> None:
    """Raise EdgepepError for another kind of file than `save` draws, or a place where none can be written."""
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise EdgepepError(f"--plot is {path}; name a .png, .svg or .pdf file.")
    durable.check_place(path)


def save(found: Sequence[RuleCosts], model: str, path: Path | str) -> Path:
    """Draw three panels into one file, PNG, SVG or PDF by its name; readable in black and white.

    Raises:
        EdgepepError: for another kind of file, or one that cannot be written.

    """
    path = Path(path)
    check(path)
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (timeline, bars, pareto) = pyplot.subplots(3, 1, figsize=(10, 13), layout="constrained")
    figure.suptitle(f"One training step of {model}, batch {found[0].torch.batch}")
    _timeline(timeline, found)
    _bars(bars, found)
    _pareto(pareto, found)
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise EdgepepError(f"cannot write {path}: {error.strerror}.") from error
    finally:
        pyplot.close(figure)
    return path


def _timeline(axes: Any, found: Sequence[RuleCosts]) -> None:
    for i, c in enumerate(found[:8]):
        values = [sum(b.size for b in alive) / 1e6 for _, alive in living_at(c.torch.trace)]
        share = [n / max(len(values) - 1, 1) for n in range(len(values))]
        axes.step(share, values, _LINES[i % 4], label=c.rule, linewidth=1.2 + 0.6 * (i // 4), where="post")
    axes.set(xlabel="operators of the step, as a share", ylabel="MB beside weights, F and state")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    axes.set_title("memory over the step, in torch", fontsize=10)


def _bars(axes: Any, found: Sequence[RuleCosts]) -> None:
    names = [c.rule for c in found]
    base = [0.0] * len(found)
    for i, kind in enumerate(MEMORY):
        sizes = [c.torch.memory[kind] / 1e6 for c in found]
        axes.barh(names, sizes, left=base, label=kind, hatch=_HATCHES[i], edgecolor="black", linewidth=0.5)
        base = [b + s for b, s in zip(base, sizes, strict=True)]
    axes.invert_yaxis()
    axes.set(xlabel="MB at the peak, in torch")
    axes.tick_params(axis="y", labelsize=8)
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    axes.set_title("what the memory holds", fontsize=10)


def _pareto(axes: Any, found: Sequence[RuleCosts]) -> None:
    """Points; those that would lie on one another share a column of names, in the order of their memory."""
    groups: dict[int, list[tuple[float, float, str]]] = {}
    for c in found:
        x, y = c.device_step.total_macs / 1e6, c.device.ram / 1e3
        axes.plot(x, y, "o", color="black", markersize=5)
        groups.setdefault(round(8 * math.log(x)), []).append((y, x, c.rule))
    axes.set(yscale="log")
    for points in groups.values():
        near: list[list[tuple[float, float, str]]] = []
        for point in sorted(points, reverse=True):
            if near and near[-1][-1][0] < 1.35 * point[0]:
                near[-1].append(point)
            else:
                near.append([point])
        for together in near:
            names = "\n".join(name for _, _, name in together)
            middle = math.prod(y for y, _, _ in together) ** (1 / len(together))
            axes.annotate(
                names, (together[0][1], middle), textcoords="offset points", xytext=(7, 0), fontsize=7, va="center"
            )
    axes.margins(x=0.3, y=0.15)
    axes.set(xlabel="million MACs of a step on a device", ylabel="kB of RAM on a device")
    axes.set_title("operations against memory, modelled: lower left is better", fontsize=10)
