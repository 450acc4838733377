"""Write the figures of a stored run into docs/speed.md: `python -m benchmarks.page [FILE]`, else the newest whole run.

What stands between <!-- NAME --> and <!-- end --> is replaced; the words around it are written by hand.
"""

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import stored

PAGE = Path(__file__).resolve().parent.parent / "docs" / "speed.md"
Result = dict[str, Any]


def goals(run: stored.Run) -> str:
    """Every goal with its figure, the suites in order."""
    rows = [
        [
            _case(r),
            r["candidate"],
            r["base"],
            _ratio(r),
            f"{r['limit']:.3g}",
            "yes" if r["ratio"] <= r["limit"] else "no",
        ]
        for r in run["results"]
        if r["limit"] is not None
    ]
    return _table(["what", "takes", "of", "ratio [10 %, 90 %]", "goal", "met"], rows)


def suite(name: str) -> Callable[[stored.Run], str]:
    """All candidates of a suite, on one thread."""

    def rows(run: stored.Run) -> str:
        found = [r for r in run["results"] if r["suite"] == name and r["threads"] == 1]
        lines = [[r["case"], r["candidate"], f"{r['milliseconds']:.3g}", _ratio(r)] for r in found if _own(r, found)]
        return _table(["what", "by", "ms", "ratio [10 %, 90 %]"], lines)

    return rows


def machine(run: stored.Run) -> str:
    """Of what, when, on what."""
    return (
        f"{run['cpu']}; torch {run['torch']}, Python {run['python']}, edgepep {run['edgepep']}; {run['date'][:10]}, "
        f"`{run['command']}`."
    )


def scaling(_: stored.Run) -> str:
    """Exponents, from the stored run of benchmarks.scaling."""
    path = stored.FOLDER / "scaling.json"
    if not path.is_file():
        return "not measured"
    found = json.loads(path.read_text(encoding="utf-8"))["exponents"]
    names = list(next(iter(found.values())))
    return _table(["axis", *names], [[axis, *(f"{own[n]:.2f}" for n in names)] for axis, own in found.items()])


PARTS: dict[str, Callable[[stored.Run], str]] = {
    "machine": machine,
    "goals": goals,
    "scaling": scaling,
    **{
        name: suite(name)
        for name in ("kernels", "step", "conv", "rules", "spiking", "spiking_peers", "startup", "epochs")
    },
}


def filled(text: str, run: stored.Run) -> str:
    """Return the page with its figures; a part without a name that is known stays as it is."""

    def replaced(match: re.Match[str]) -> str:
        name = match[1]
        return f"<!-- {name} -->\n\n{PARTS[name](run)}\n\n<!-- end -->" if name in PARTS else match[0]

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- end -->", replaced, text, flags=re.DOTALL)


def main(argv: Sequence[str]) -> int:
    path = Path(argv[0]) if argv else stored.newest(stored.cpu_model())
    if path is None:
        print("no whole run is stored; run `python -m benchmarks` first.", file=sys.stderr)
        return 2
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), stored.load(path)), encoding="utf-8")
    print(f"{PAGE} from {path}")
    return 0


def _own(result: Result, found: Sequence[Result]) -> bool:
    """Whether a result is a candidate's against its case's base: the first result of the case has that base."""
    return bool(result["base"] == next(r["base"] for r in found if r["case"] == result["case"]))


def _case(result: Result) -> str:
    threads = "1 thread" if result["threads"] == 1 else f"{result['threads']} threads"
    return f"{result['case']}, {threads}"


def _ratio(result: Result) -> str:
    return f"{result['ratio']:.2f} [{result['low']:.2f}, {result['high']:.2f}]"


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
