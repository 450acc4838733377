"""Quantised ONNX files beside the fp32 file of the same network, in onnxruntime: size, and time by preset.

python -m benchmarks.onnx_quantized [--threads 1 all]

Dense networks of ReLUs, without and with biases. "fast, no VNNI" is the preset `fast` as a processor gets it whose
8-bit products would clip; its time here is what the detour costs, not what such a processor takes.
"""

import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.__main__ import main
from benchmarks.rounds import Case
from edgepep import export, load
from edgepep.folders import EXPORT
from edgepep.models import Recipe
from edgepep.synapses import calibrate

WIDTHS = ([1024], [2048, 2048], [256, 256, 256])
BATCHES = (1, 64)


def recipe_of(widths: list[int], bias: bool) -> Recipe:
    """784 inputs, hidden layers of some widths, 10 classes."""
    layers: list[dict[str, object]] = [{"synapses": "linear", "features": width} for width in widths]
    layers.append({"synapses": "linear", "features": "classes"})
    layers[0]["prepare"] = ["flatten"]
    return load("mnist-fc").but(network={"layers": layers, "bias": bias})


def written(recipe: Recipe, x: torch.Tensor, path: Path) -> str:
    """Export, and return the path."""
    network = recipe.build()
    calibrate(network, [x])
    export.save(network, path, "onnx", x)
    return str(path)


def compare(widths: list[int], bias: bool, folder: Path, batches: tuple[int, ...]) -> Iterator[Case | str]:
    """Sizes and times of one network's files."""
    sys.path.insert(0, str(EXPORT / "onnxruntime"))
    import infer as kit
    import sessions

    threads = torch.get_num_threads()
    x, plain = torch.rand(1000, 1, 28, 28), recipe_of(widths, bias)
    files = {"fp32": written(plain, x, folder / "fp32.onnx")}
    for bits in (8, 4):
        files[f"int{bits}"] = written(plain.quantized(bits), x, folder / f"int{bits}.onnx")
    files["int8, per channel"] = written(plain.quantized(8, per_channel=True), x, folder / "channel.onnx")
    sizes = {name: Path(path).stat().st_size for name, path in files.items()}
    runs = {"fp32": kit.load(files["fp32"], "parity", threads)}
    for name in list(files)[1:]:
        for preset in ("fast", "parity"):
            runs[f"{name}, {preset}"] = kit.load(files[name], preset, threads)
    saturates, sessions.saturates = sessions.saturates, lambda: True
    runs["int8, fast, no VNNI"] = kit.load(files["int8"], "fast", threads)
    sessions.saturates = saturates
    name = "-".join(map(str, [784, *widths, 10])) + (", biases" if bias else "")
    lines = [f"  {file:<20} {size:9d}   {size / sizes['fp32']:6.3f}" for file, size in sizes.items()]
    yield "\n".join([f"{name}: bytes, ratio", *lines])
    for batch in batches:
        given = np.ascontiguousarray(x[:batch].numpy())
        yield Case(f"{name}, batch {batch}", {n: partial(run, given) for n, run in runs.items()}, "fp32")


def cases(quick: bool) -> Iterator[Case | str]:
    """Several widths, and one network with biases."""
    with tempfile.TemporaryDirectory() as folder:
        for widths in ([64],) if quick else WIDTHS:
            yield from compare(widths, False, Path(folder), BATCHES)
        if not quick:
            yield from compare(WIDTHS[0], True, Path(folder), BATCHES)


if __name__ == "__main__":
    sys.exit(main(["onnx_quantized", *sys.argv[1:]]))
