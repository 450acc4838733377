"""Start-up: what it takes until edgepep is there, in fresh processes, beside `import torch`.

python -m benchmarks.startup
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.__main__ import main
from benchmarks.rounds import Case, Goal, Run

TORCH, PROFILE = "import torch", "edgepep profile --rule pepita"
BEYOND, HELP, USE = f"{PROFILE}, less {TORCH}", "edgepep --help", "import edgepep; edgepep.Network"
ROOT = Path(__file__).resolve().parent.parent


def cases(quick: bool) -> Iterator[Case]:
    """Imports and commands."""
    candidates: dict[str, Run | float] = {
        TORCH: fresh("-c", "import torch"),
        "import edgepep": fresh("-c", "import edgepep"),
        USE: fresh("-c", "import edgepep; edgepep.Network"),
        HELP: fresh("-m", "edgepep", "--help"),
        PROFILE: fresh("-m", "edgepep", "profile", "--rule", "pepita"),
        "0.3 s": 300.0,
        "2 s": 2000.0,
    }
    goals = (
        Goal("import edgepep", TORCH, 1.1),
        Goal(USE, TORCH, 1.1),  # names are looked up when they are used first, so the import alone says little
        Goal(HELP, "0.3 s", 1.0),
        Goal(BEYOND, "2 s", 1.0),
    )
    yield Case("start-up", candidates, TORCH, goals, {BEYOND: (PROFILE, TORCH)}, rounds=1 if quick else 7)


def fresh(*command: str) -> Run:
    """Python with some arguments, in a process of its own that may use as many threads as this one."""
    own = {"OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": os.pathsep.join([str(ROOT), *_paths()])}

    def run() -> None:
        subprocess.run([sys.executable, *command], env=os.environ | own, stdout=subprocess.DEVNULL, check=True)

    return run


def _paths() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


if __name__ == "__main__":
    sys.exit(main(["startup", *sys.argv[1:]]))
