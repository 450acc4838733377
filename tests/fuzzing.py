"""Readers of files, given what no honest program wrote: each may refuse with a typed error, and nothing else.

python -m tests.fuzzing [--inputs 100000] [--seed 0] [reader ...]

Inputs are good ones with mutations: bytes that are flipped, cut, doubled or put in; in nested tables, values that are
exchanged for odd ones, and then sealed with the right checksum. In the tests Hypothesis chooses them; here, a seed.
"""

import argparse
import copy
import functools
import gzip
import importlib
import io
import pickle
import random
import resource
import struct
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from edgepep import EdgepepError, checkpoint, load, models, plain, sealed, states
from edgepep.datasets import _files
from edgepep.folders import MODELS

MEMORY, SECONDS = 3 << 30, 5.0
"""That one input may take beyond what the process has, and so long."""
FOLDER = Path(tempfile.mkdtemp(prefix="fuzzing-"))

ODD = [
    *(None, True, False, 0, -1, 1, 3, 2**31, 2**63, 10**30, 1.5, -0.0, float("inf"), float("nan"), 1e308, "", "\0"),
    *("os:system", "../../etc/passwd", "pepita", "linear", "a" * 2000, "__class__", "maxpool 9", "é\U0001f600", "7"),
    *([], [1], [-1, 2, 3], [[]], ["x"], {}, {"x": 1}, {"": {}}),
]


def mutated(base: bytes, chance: random.Random) -> bytes:
    """A few changes of some bytes; now and then bytes that have nothing to do with it."""
    if not chance.randrange(10):
        return chance.randbytes(chance.randrange(200))
    content = bytearray(base)
    for _ in range(chance.randint(1, 3)):
        at, what = chance.randint(0, len(content)), chance.randrange(6)
        if chance.randrange(2):
            at = min(at, chance.randrange(200))  # heads are short, and matter most
        more, far = chance.randbytes(chance.randint(1, 8)), at + chance.randint(1, 300)
        if what == 0:
            content[at : at + len(more)] = more
        elif what == 1:
            del content[at:]
        elif what == 2:
            content[at:at] = more
        elif what == 3:
            content[at:at] = content[at:far]
        elif what == 4:
            del content[at:far]
        elif at < len(content):
            content[at] ^= 1 << chance.randrange(8)
    return bytes(content)


def exchanged(base, chance: random.Random):
    """A nested table in which one or two values, or keys, are others."""
    made = copy.deepcopy(base)
    for _ in range(chance.randint(1, 2)):
        home = made
        while True:
            keys = list(home) if isinstance(home, dict) else list(range(len(home)))
            if not keys:
                break
            key, value = chance.choice(keys), copy.deepcopy(chance.choice(ODD))
            if isinstance(home[key], (dict, list)) and home[key] and chance.randrange(5):
                home = home[key]
                continue
            what = chance.randrange(4) if isinstance(home, dict) else 0
            if what < 2:
                home[key] = value
            elif what == 2:
                del home[key]
            else:
                home[chance.choice(["network", "x", "", 3])] = value
            break
    return made


def written(name: str, content: bytes) -> Path:
    path = FOLDER / name
    path.write_bytes(content)
    return path


RECIPE = load("digits-fc").but(network={"layers": [{"synapses": "linear", "prepare": ["flatten"]}]})
WIDE = load("digits-fc").but(quantized={"weights": "integer"}, head={"rule": "dfa"}, rules={"pepita": {"limit": 0.5}})


def read_recipe(text: bytes) -> None:
    models.load(written("recipe.toml", text))


def make_from_table(table) -> None:
    recipe = models.from_table(table, "table")
    recipe.make_rule(recipe.under(recipe.rule).build(0), recipe.rule, 0)


@functools.cache
def a_loop():
    from tests.test_resume import make_loop, run_to

    loop = make_loop("pepita")
    run_to(loop, 5)
    return loop


@functools.cache
def a_state() -> tuple[bytes, dict]:
    path = states.write(FOLDER, 5, a_loop().state_dict())
    return path.read_bytes(), states.read(path, 1 << 24)


def read_state(content: bytes) -> None:
    states.read(written("state-000000006.edgepep", content), 1 << 24)


def read_sealed_state(parts: tuple[bytes, bytes]) -> None:
    """With lengths and digest as they should be."""
    import hashlib

    lengths = struct.pack("<QQ", *map(len, parts))
    read_state(states.MAGIC + hashlib.sha256(b"".join([lengths, *parts])).digest() + lengths + b"".join(parts))


def load_state(state: dict) -> None:
    a_loop().load_state_dict(state)


@functools.cache
def weights() -> bytes:
    return sealed.pack({"a": torch.zeros(3, 4), "b": torch.ones((), dtype=torch.int8)})


@functools.cache
def a_run() -> dict:
    (FOLDER / "run").mkdir()
    checkpoint.begin(FOLDER / "run", RECIPE, "pepita", 0)
    checkpoint.save_weights(FOLDER / "run", RECIPE.make_rule(RECIPE.build(), "pepita"))
    return checkpoint.read_about(FOLDER / "run")


def read_run(table: dict) -> None:
    checkpoint._write_about(FOLDER / "run", table)
    checkpoint.read(FOLDER / "run")


def read_result(content: bytes) -> None:
    from edgepep.reproduction import store

    store.read(written("result.json", content))


@functools.cache
def a_result() -> bytes:
    from edgepep.folders import RUNS

    return next(iter(sorted(RUNS.glob("mnist-fc-5-epochs-*.json")))).read_bytes()


@functools.cache
def a_model() -> bytes:
    from edgepep import export

    export.save(load("digits-fc").build(), FOLDER / "net.onnx", "onnx_float", torch.rand(8, 1, 8, 8))
    return (FOLDER / "net.onnx").read_bytes()


@functools.cache
def the_kit() -> ModuleType:
    from edgepep.folders import EXPORT

    sys.path.insert(0, str(EXPORT / "onnxruntime"))
    return importlib.import_module("infer")


def run_model(content: bytes) -> None:
    path = written("mutated.onnx", content)
    try:
        the_kit().load(path)(np.zeros((2, 1, 8, 8), np.float32))
    except (ValueError, OSError) as error:
        raise EdgepepError(str(error)) from error


def count_model(content: bytes) -> None:
    from edgepep.profiling.onnx_cost import inference_cost

    inference_cost(written("counted.onnx", content))


class Recorded:
    """One sample of N-MNIST, as tonic reads it."""

    sensor_size = (34, 34, 2)

    def __init__(self, path: Path) -> None:
        self.path = path

    def __len__(self) -> int:
        return 1

    def __getitem__(self, i: int):
        from tonic.io import read_mnist_file

        return read_mnist_file(str(self.path), np.dtype([("x", int), ("y", int), ("t", int), ("p", int)])), 0


def read_events(content: bytes) -> None:
    from edgepep.datasets import _events

    _events.counts(Recorded(written("sample.bin", content)), 25, 12_600, str)


def unpacked(content: bytes) -> None:
    written("packed.gz", content)
    (FOLDER / "packed").unlink(missing_ok=True)
    _files.verified(FOLDER / "packed", "0" * 64)


EVENTS = bytes([1, 2, 0, 0, 9]) + bytes([3, 4, 128, 1, 0]) + bytes([5, 6, 0, 2, 0]) * 3
IDX = struct.pack(">IIII", 0x803, 3, 4, 5) + bytes(60)


def as_in_2009(table) -> bytes:
    """A pickle as Python 2 wrote it, whose bytes are strings."""

    class Pickler(pickle._Pickler):
        dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

        def save_string(self, content: bytes) -> None:
            self.write(b"T" + struct.pack("<i", len(content)) + content)
            self.memoize(content)

        dispatch[bytes] = save_string

    file = io.BytesIO()
    Pickler(file, 2).dump(table)
    return file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


CIFAR = as_in_2009({"data": np.zeros((2, 3072), np.uint8), "labels": [1, 2]})


def of_bytes(base):
    return lambda chance: mutated(base(), chance)


def of_table(*bases):
    return lambda chance: exchanged(chance.choice(bases)(), chance)


def of_parts(chance: random.Random) -> tuple[bytes, bytes]:
    """JSON and tensors of a state."""
    text = mutated(packed_state(), chance)
    return text, mutated(weights(), chance) if chance.randrange(2) else b"\2\0\0\0\0\0\0\0{}"


@functools.cache
def packed_state() -> bytes:
    return plain.pack(a_state()[1])[0]


READERS = {
    "recipe": (of_bytes((MODELS / "mnist-fc-spiking.toml").read_bytes), read_recipe),
    "recipe table": (of_table(RECIPE.table, WIDE.table), make_from_table),
    "state": (of_bytes(lambda: a_state()[0]), read_state),
    "sealed state": (of_parts, read_sealed_state),
    "state table": (of_table(lambda: a_state()[1]), load_state),
    "weights": (of_bytes(weights), lambda content: sealed.unpack(content, required=False)),
    "run.json": (of_table(a_run), read_run),
    "result": (of_bytes(a_result), read_result),
    "idx": (of_bytes(lambda: IDX), _files.idx),
    "gzip": (of_bytes(lambda: gzip.compress(IDX)), unpacked),
    "cifar": (of_bytes(lambda: CIFAR), _files.batch),
    "events": (of_bytes(lambda: EVENTS), read_events),
    "onnx": (of_bytes(a_model), run_model),
    "onnx cost": (of_bytes(a_model), count_model),
}
WARM = {"recipe table": lambda: make_from_table(WIDE.table()), "events": lambda: read_events(EVENTS)}
"""Read something good first, so that what has to be imported is."""


def give(name: str, chance: random.Random, seen: list) -> None:
    """Give a reader one input, and add up: how many were given, how many taken, the seconds of the slowest."""
    make, read = READERS[name]
    content = make(chance)
    began = time.perf_counter()
    try:
        read(content)
        seen[1] += 1
    except EdgepepError:
        pass
    except BaseException:
        print(f"{name}: {content!r}"[:5000], file=sys.stderr)
        raise
    seen[0] += 1
    took = time.perf_counter() - began
    seen[2] = max(seen[2], took)
    assert took < SECONDS, f"{name} took {took:.1f} s for {content!r}"[:5000]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("readers", nargs="*")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY + (4 << 30), resource.RLIM_INFINITY))
    for name in asked.readers or READERS:
        began, seen = time.monotonic(), [0, 0, 0.0]
        WARM.get(name, lambda: None)()
        for i in range(asked.inputs):
            give(name, random.Random(f"{asked.seed} {i}"), seen)
        count, taken, slowest = seen
        seconds = time.monotonic() - began
        print(f"{name}: {count} inputs, {taken} taken, slowest {1e3 * slowest:.0f} ms ({seconds:.0f} s)", flush=True)
    print(f"largest memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB")


if __name__ == "__main__":
    main()
