"""PEPITA's training step in onnxruntime beside torch: backprop by autograd + torch.optim.SGD, and PEPITA in place.

python -m benchmarks.ort_step [--threads 1 all]

784-1024-10. A graph cannot change weights in place: each step writes new ones beside the old. "bound" gives
onnxruntime two sets of buffers that change places, so that nothing is allocated.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from benchmarks.__main__ import main
from benchmarks.nets import Pool, mlp, network_of
from benchmarks.rounds import Case
from benchmarks.steps import RATE, autograd, rule
from edgepep import learning_files
from edgepep.learning_graph import Settings
from edgepep.rules.pepita import Pepita

SIZES = [784, 1024, 10]


def written(momentum: float, folder: Path) -> Path:
    """The step's graph, and its state."""
    torch.manual_seed(0)
    x, y = torch.rand(640, SIZES[0]), torch.randint(SIZES[-1], (640,))
    made = Pepita(network_of(mlp(SIZES), x[:2]), x[:2])
    learning_files.save(made, Settings(momentum), RATE, folder, (x, y))
    return folder / learning_files.STEP


def session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def state_of(run: onnxruntime.InferenceSession, path: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    read = load_file(path.parent / learning_files.STATE)
    return {given.name: read[given.name] for given in run.get_inputs()[3:]}


def plain(path: Path, batches: Any, threads: int) -> Callable[[], None]:
    """As the kit does it: numpy arrays in, numpy arrays out."""
    run = session(path, threads)
    state, rate = state_of(run, path), np.array(RATE, np.float32)

    def step() -> None:
        x, y = next(batches)
        _, _, *new = run.run(None, {"x": x, "target": y, "learning_rate": rate, **state})
        state.update(zip(state, new, strict=True))

    return step


def bound(path: Path, batches: Any, threads: int) -> Callable[[], None]:
    """Two sets of buffers that change places."""
    run = session(path, threads)
    state, rate = state_of(run, path), np.array(RATE, np.float32)
    value = onnxruntime.OrtValue.ortvalue_from_numpy
    sides = [{name: value(array.copy()) for name, array in state.items()} for _ in range(2)]
    binding = run.io_binding()

    def step() -> None:
        x, y = next(batches)
        binding.clear_binding_inputs()
        binding.clear_binding_outputs()
        for name, array in (("x", x), ("target", y), ("learning_rate", rate)):
            binding.bind_cpu_input(name, array)
        for name in state:
            binding.bind_ortvalue_input(name, sides[0][name])
            binding.bind_ortvalue_output(f"new.{name}", sides[1][name])
        for name in ("loss", "logits"):
            binding.bind_output(name)
        run.run_with_iobinding(binding)
        sides.reverse()

    return step


def compare(momentum: float, batch: int, folder: Path) -> Case:
    threads, path = torch.get_num_threads(), written(momentum, folder)
    net, pool = mlp(SIZES), Pool((SIZES[0],), batch)

    def arrays() -> Any:
        pairs = zip(pool.x.split(batch), pool.y.split(batch), strict=True)
        return cycle([(a.numpy(), b.numpy()) for a, b in pairs])

    candidates = {
        "backprop, autograd + SGD": autograd(net, pool, momentum),
        "pepita, torch in place": rule(Pepita, net, pool, momentum),
        "pepita, onnxruntime": plain(path, arrays(), threads),
        "pepita, onnxruntime, bound": bound(path, arrays(), threads),
    }
    title = f"{'-'.join(map(str, SIZES))}, batch {batch}, momentum {momentum}"
    return Case(title, candidates, "backprop, autograd + SGD")


def cases(quick: bool) -> Iterator[Case]:
    """Without and with momentum, by batches and one sample at a time."""
    with tempfile.TemporaryDirectory() as folder:
        for momentum in (0.9,) if quick else (0.0, 0.9):
            for batch in (1,) if quick else (64, 1):
                yield compare(momentum, batch, Path(folder))


if __name__ == "__main__":
    sys.exit(main(["ort_step", *sys.argv[1:]]))
