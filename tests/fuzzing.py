"""Readers of files, given what no honest program wrote: each may refuse with a typed error, and nothing else.

python -m tests.fuzzing [--inputs 100000] [reader ...]

Inputs are Hypothesis' own and mutations of good ones: bytes that are flipped, cut, doubled or put in; in nested tables,
values that are exchanged for odd ones, and then sealed with the right checksum.
"""

import argparse
import copy
import functools
import gzip
import io
import pickle
import resource
import struct
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from edgepep import EdgepepError, checkpoint, load, models, plain, sealed, states
from edgepep.datasets import _files
from edgepep.folders import MODELS

MEMORY, SECONDS = 3 << 30, 5.0
"""That one input may take beyond what the process has, and so long."""
FOLDER = Path(tempfile.mkdtemp(prefix="fuzzing-"))

odd = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 1, 2**31, 2**63, 10**30, 1.5, -0.0, float("inf"), float("nan"), 1e308]),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["os:system", "../../etc/passwd", "pepita", "linear", "\0", "a" * 2000, "__class__", "maxpool 9"]),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
)


@st.composite
def mutated(draw, base: bytes) -> bytes:
    """A few changes of some bytes."""
    content = bytearray(base)
    for _ in range(draw(st.integers(1, 3))):
        at, what = draw(st.integers(0, len(content))), draw(st.integers(0, 4))
        more = draw(st.binary(min_size=1, max_size=8))
        if what == 0:
            content[at : at + len(more)] = more
        elif what == 1:
            del content[at:]
        elif what == 2:
            content[at:at] = more
        elif what == 3:
            content[at:at] = content[at : at + draw(st.integers(1, 300))]
        else:
            del content[at : at + draw(st.integers(1, 300))]
    return bytes(content)


@st.composite
def exchanged(draw, base):
    """A nested table in which one or two values, or keys, are others."""
    made = copy.deepcopy(base)
    for _ in range(draw(st.integers(1, 2))):
        home = made
        while True:
            keys = list(home) if isinstance(home, dict) else list(range(len(home)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(home[key], (dict, list)) and home[key] and draw(st.integers(0, 4)):
                home = home[key]
                continue
            if draw(st.booleans()) or not isinstance(home, dict):
                home[key] = draw(odd)
            elif draw(st.booleans()):
                del home[key]
            else:
                home[draw(st.one_of(st.text(max_size=6), st.just("network")))] = draw(odd)
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


def taken(read, good) -> None:
    """Read something good, so that what has to be imported is."""
    read(good)


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


def run_model(content: bytes) -> None:
    from edgepep.onnx_files import _kit

    path = written("mutated.onnx", content)
    try:
        _kit().load(path)(np.zeros((2, 1, 8, 8), np.float32))
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


def pickled(content: bytes) -> None:
    table = _files.batch(content)
    assert all(
        type(v) in (list, str, bytes, int, float, np.ndarray, tuple, bool, dict, type(None)) for v in table.values()
    )


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
READERS = {
    "recipe": (lambda: mutated((MODELS / "mnist-fc-spiking.toml").read_bytes()) | st.binary(), read_recipe),
    "recipe table": (
        lambda: taken(make_from_table, WIDE.table()) or exchanged(RECIPE.table()) | exchanged(WIDE.table()),
        make_from_table,
    ),
    "state": (lambda: mutated(a_state()[0]) | st.binary(), read_state),
    "sealed state": (
        lambda: st.tuples(mutated(plain.pack(a_state()[1])[0]), st.just(b"\2\0\0\0\0\0\0\0{}") | mutated(weights())),
        read_sealed_state,
    ),
    "state table": (lambda: exchanged(a_state()[1]), load_state),
    "weights": (lambda: mutated(weights()) | st.binary(), lambda content: sealed.unpack(content, required=False)),
    "run.json": (lambda: exchanged(a_run()), read_run),
    "result": (lambda: mutated(a_result()), read_result),
    "idx": (lambda: mutated(IDX) | st.binary(), _files.idx),
    "gzip": (lambda: mutated(gzip.compress(IDX)) | st.binary(), unpacked),
    "cifar": (lambda: mutated(CIFAR) | st.binary(), pickled),
    "events": (lambda: taken(read_events, EVENTS) or mutated(EVENTS) | st.binary(), read_events),
    "onnx": (lambda: mutated(a_model()) | st.binary(), run_model),
    "onnx cost": (lambda: mutated(a_model()) | st.binary(), count_model),
}


def fuzz(name: str, inputs: int) -> tuple[int, int, float]:
    """Give a reader so many inputs; how many were given, how many taken, and the seconds of the slowest."""
    strategy, read = READERS[name]
    seen = [0, 0, 0.0]

    @settings(
        max_examples=inputs,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        derandomize=False,
    )
    @given(strategy())
    def give(content) -> None:
        began = time.perf_counter()
        try:
            read(content)
            seen[1] += 1
        except EdgepepError:
            pass
        seen[0] += 1
        seen[2] = max(seen[2], time.perf_counter() - began)
        assert seen[2] < SECONDS, f"{name} took {seen[2]:.1f} s"

    give()
    return seen[0], seen[1], seen[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("readers", nargs="*")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for name in asked.readers or READERS:
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY + (4 << 30), resource.RLIM_INFINITY))
        began = time.monotonic()
        count, taken, slowest = fuzz(name, asked.inputs)
        seconds = time.monotonic() - began
        print(f"{name}: {count} inputs, {taken} taken, slowest {1e3 * slowest:.0f} ms ({seconds:.0f} s)", flush=True)
    print(f"largest memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB")


if __name__ == "__main__":
    main()
