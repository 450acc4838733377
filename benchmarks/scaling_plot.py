"""The picture of benchmarks.scaling: time above, memory below, a column an axis; readable in black and white."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

LINES = {"pepita": ("-", "o", "black", "black"), "backprop": ("--", "s", "0.4", "white")}
KINDS = {"time": ("milliseconds", 1.0, "ms a step"), "memory": ("peak_bytes", 2**20, "MiB at the peak of a step")}


def save(run: dict[str, Any], folder: Path) -> list[Path]:
    """Draw scaling.png and scaling.svg."""
    import matplotlib
    from matplotlib.figure import Figure

    names = list(run["exponents"])
    figure = Figure(figsize=(4 * len(names), 7.5), layout="constrained")
    panels = figure.subplots(2, len(names), squeeze=False)
    for column, name in enumerate(names):
        results = [r for r in run["results"] if r["axis"] == name]
        for row, kind in enumerate(KINDS):
            _panel(panels[row][column], results, run["exponents"][name], kind)
        panels[0][column].set_title(f"against {name}")
        panels[1][column].set_xlabel(name)
    threads = f"{run['threads']} thread{'s' if run['threads'] > 1 else ''}"
    figure.suptitle(f"One training step, {threads}, {run['cpu']}, torch {run['torch']}", fontsize=11)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"scaling.{suffix}" for suffix in ("png", "svg")]
    with matplotlib.rc_context({"svg.hashsalt": "edgepep"}):
        for path in paths:
            figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths


def _panel(axes: Any, results: Sequence[dict[str, Any]], exponents: dict[str, float], kind: str) -> None:
    """One figure against one axis, with the slope of the arithmetic through PEPITA's last time."""
    key, unit, label = KINDS[kind]
    for name, (line, marker, colour, face) in LINES.items():
        own = [r for r in results if r["candidate"] == name]
        values, figures = [r["value"] for r in own], [r[key] / unit for r in own]
        said = f"{name}: n^{exponents[f'{name}, {kind}']:.2f}"
        axes.plot(values, figures, line, marker=marker, color=colour, markerfacecolor=face, label=said)
        if kind == "time" and name == "pepita":
            slope = [figures[-1] * r["work"] / own[-1]["work"] for r in own]
            axes.plot(values, slope, ":", color="0.5", label=f"arithmetic: n^{exponents['arithmetic']:.2f}")
    axes.set(xscale="log", yscale="log", ylabel=label)
    axes.grid(which="major", color="0.9")
    axes.legend(fontsize=9)
