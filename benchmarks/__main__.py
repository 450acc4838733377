"""Time edgepep beside what a user would run instead, all in turn in every round, and compare with an earlier run.

Ratios are of wall time, taken within a round; beside them stand CPU cycles, or CPU time where the kernel offers no
cycles. Peers are run if they are installed (pip install --no-deps biotorch norse spikingjelly loguru).
"""

import argparse
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks import stored
from benchmarks.rounds import Case, table, timings
from edgepep import plugins
from edgepep.errors import EdgepepError

HERE = Path(__file__).parent
AIM, QUICK_AIM, QUICK_ROUNDS = 0.02, 0.001, 2


def names() -> list[str]:
    """Names of all suites: the modules here that define `cases`, found without importing them."""
    return sorted(p.stem for p in HERE.glob("*.py") if "\ndef cases(" in p.read_text(encoding="utf-8"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run suites; return 1 if something is slower than before and --strict is given, 2 for what cannot be."""
    argv = list(sys.argv[1:] if argv is None else argv)
    given = _parser().parse_args(argv)
    if given.list:
        print("\n".join(names()))
        return 0
    try:
        suites = [plugins.check("suite", name, names()) for name in given.suites] or names()
        out = given.out or (None if given.suites or given.quick else _dated())
        path = given.against or (None if given.quick else stored.newest(stored.cpu_model()))
        earlier = stored.load(path) if path else None  # before all else: a wrong name is said now, not in an hour
        run = stored.begun(given.rounds, given.quick, argv)
        for suite in suites:
            for threads in _numbers(given.threads):
                _run(suite, threads, run)
                if out:
                    stored.save(run, out)
    except EdgepepError as error:
        print(error, file=sys.stderr)
        return 2
    if out:
        print(f"stored in {out}")
    print(_goals(run["results"]))
    slower = earlier is not None and _slower(run, earlier, path)
    return 1 if slower and given.strict else 0


def _run(suite: str, threads: int, run: stored.Run) -> None:
    """Time one suite, print what is found, and add it to the run."""
    quick = run["quick"]
    rounds, aim = (min(QUICK_ROUNDS, run["rounds"]), QUICK_AIM) if quick else (run["rounds"], AIM)
    module: Any = importlib.import_module(f"benchmarks.{suite}")
    print(f"\n== {suite}", flush=True)
    with _threads(threads):
        torch.manual_seed(0)
        for case in module.cases(quick):
            if not isinstance(case, Case):
                run["notes"].append({"suite": suite, "threads": threads, "text": case})
                print(case, flush=True)
                continue
            found = timings(case, rounds, aim)
            run["results"] += [stored.row(suite, case.title, threads, timing) for timing in found]
            run["notes"] += [
                {"suite": suite, "threads": threads, "text": f"{case.title}: {name} is absent: {why}"}
                for name, why in case.absent.items()
            ]
            print(table(case, threads, found), flush=True)


def _goals(results: Sequence[dict[str, Any]]) -> str:
    """How many goals are met, and which are not."""
    goals = [result for result in results if result["limit"] is not None]
    missed = [
        f"  {r['suite']}, {r['case']}, threads {r['threads']}: {r['candidate']} takes {r['ratio']:.3f} of {r['base']}, "
        f"not {r['limit']:.3g}"
        for r in goals
        if r["ratio"] > r["limit"]
    ]
    return "\n".join([f"\n{len(goals) - len(missed)} of {len(goals)} goals are met", *missed])


def _slower(run: stored.Run, earlier: stored.Run, path: Path | None) -> bool:
    """Print what is slower than before; whether anything is."""
    print(f"\ncompared with {path}, of {earlier['date']}:")
    if run["cpu"] != earlier["cpu"]:
        print(f"  another machine: {run['cpu']}, then {earlier['cpu']}")
    found = list(stored.slowdowns(run, earlier))
    print("\n".join(f"  SLOWER {line}" for line in found) or "  nothing is more than 10 % slower")
    return bool(found)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _numbers(given: Sequence[str]) -> list[int]:
    """Numbers of threads, each once."""
    found = []
    for word in given:
        if word != "all" and not (word.isdecimal() and int(word)):
            raise EdgepepError(f"--threads is {word!r}; it must be a number of at least 1, or all.")
        found.append((os.cpu_count() or 1) if word == "all" else int(word))
    return list(dict.fromkeys(found))


def _dated() -> Path:
    from datetime import datetime

    return stored.FOLDER / f"{datetime.now():%Y-%m-%d-%H%M}.json"


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    made.add_argument("suites", nargs="*", help="names of suites, as --list gives them; else all of them")
    made.add_argument("--list", action="store_true", help="print the names of all suites")
    made.add_argument("--threads", nargs="+", default=["1", "all"], metavar="N", help="numbers, or all: 1 all")
    made.add_argument("--rounds", type=int, default=21, help="of each case; fewer where one takes long: 21")
    made.add_argument("--quick", action="store_true", help="few rounds and small cases: does it run?")
    made.add_argument("--out", type=Path, help="where to store; a whole run is stored in results/benchmarks anyway")
    made.add_argument("--against", type=Path, help="an earlier run; else the newest whole one of such a machine")
    made.add_argument("--strict", action="store_true", help="exit with 1 if anything is more than 10 %% slower")
    return made


if __name__ == "__main__":
    sys.exit(main())
