"""Interrupt training at random moments, again and again, and compare what comes of it with an uninterrupted run.

python -m tests.interrupting [--kills 500] [--signal KILL|TERM] [--seed 0]

Children are forked, so that torch is imported once. They save every other step, so that about every second moment is
within a save.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

from edgepep import Stopped, checkpoint, load, signals, states
from edgepep.training import Policy, train

torch.set_num_threads(1)
LAYERS = [
    {"synapses": "linear", "features": 32, "prepare": ["flatten"], "dropout": 0.2},
    {"synapses": "linear", "features": 24, "dropout": 0.2},
    {"synapses": "linear"},
]
RECIPE = load("digits-fc").but(network={"layers": LAYERS}, training={"decay_epochs": [2], "batch_size": 16})
EPOCHS = 3


def run(out: Path, ready: int | None = None) -> int:
    """Train, or go on with it; the exit code."""
    with signals.noted() as stop:
        try:
            for _ in train(RECIPE, epochs=EPOCHS, out=out, policy=Policy(save_steps=2, stop=stop)):
                pass
        except Stopped as error:
            return error.code
        return 0


def child(out: Path) -> int:
    """Fork a process that trains; its number."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os._exit(run(out))
    except BaseException as error:  # a child never goes back into the parent's code
        print(f"child: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def campaign(folder: Path, kills: int, number: int, seed: int) -> dict[str, int]:
    """Kill so many times; how it went."""
    assert run(folder / "whole") == 0
    wanted = (folder / "whole" / "weights.safetensors").read_bytes()
    chance, seen = random.Random(seed), {"killed": 0, "within a save": 0, "runs finished": 0, "before the handler": 0}
    longest, halves = 0.4, set()
    out = folder / "run-0"
    while seen["killed"] < kills or out.exists():
        pid = child(out)
        ended = 0
        if seen["killed"] < kills:
            until = time.monotonic() + chance.uniform(0, longest)
            while time.monotonic() < until and not ended:
                time.sleep(0.002)
                ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended:
                os.kill(pid, number)
        if not ended:
            _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        halves |= {(path.name, path.stat().st_mtime_ns) for path in out.glob(".*.new")}
        finished = (out / "run.json").exists() and "finished" in checkpoint.read_about(out)
        if finished:  # it may be killed between its last word and its end
            assert (out / "weights.safetensors").read_bytes() == wanted, f"{out} ended at other weights"
            lines = [json.loads(line)["epoch"] for line in (out / "metrics.jsonl").read_text().splitlines()]
            assert lines == list(range(1, EPOCHS + 1)), lines
            assert code or not states.found(out)
            seen["killed"] += code != 0
            seen["runs finished"] += 1
            out = folder / f"run-{seen['runs finished']}"
            continue
        assert code in (-number, 128 + number), f"exit code {code}"
        seen["killed"] += 1
        seen["before the handler"] += number != signal.SIGKILL and code < 0
        assert not list(out.glob("*.damaged")), "a state was damaged"
        assert len(states.found(out)) <= 8  # more than two only where a kill came between a save and the clearing
    return seen | {"within a save": len(halves)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--signal", default="KILL", choices=["KILL", "TERM", "INT", "USR1"])
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    number = getattr(signal, f"SIG{given.signal}")
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        seen = campaign(Path(folder), given.kills, number, given.seed)
    said = ", ".join(f"{value} {key}" for key, value in seen.items() if value)
    seconds = time.monotonic() - began
    print(f"SIG{given.signal}: {said}, every one at the weights of the uninterrupted run ({seconds:.0f} s)")


if __name__ == "__main__":
    main()
