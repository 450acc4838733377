"""Run an edgepep ONNX file: python infer.py net.onnx inputs.npy [labels.npy] [--preset parity|fast].

Needs numpy and onnxruntime, nothing else. Inputs are float32 [n, ...] as the network was trained on, labels are [n].
"""

import argparse
import sys

import numpy as np
from sessions import PRESETS, session


def load(path, preset="parity", threads=0):
    """Return a function from inputs [n, ...] to logits [n, classes], for a file of one input."""
    made = session(str(path), preset, threads)
    (name, shape), *_ = [(given.name, given.shape) for given in made.get_inputs()]

    def run(x):
        fits = len(x.shape) == len(shape) and all(a == b for a, b in zip(shape, x.shape, strict=True) if type(a) is int)
        if x.dtype != np.float32 or not fits:
            raise ValueError(f"inputs are {x.dtype} {list(x.shape)}; {path} takes float32 {shape}.")
        try:
            answer = made.run(None, {name: x})[0]
        except Exception as error:
            raise ValueError(f"onnxruntime cannot run the model: {str(error).splitlines()[0]}") from error
        if not isinstance(answer, np.ndarray) or answer.ndim != 2 or len(answer) != len(x):
            raise ValueError(f"{path} does not answer with scores [n, classes].")
        return answer

    return run


def evaluate(run, x, y=None, batch=250):
    """Classes [n] of inputs [n, ...], and with labels [n] the share that is right, else None."""
    if y is not None and (y.shape != x.shape[:1] or not len(y)):
        raise ValueError(f"labels are {list(y.shape)}, for inputs {list(x.shape)}; there must be one for each.")
    classes = np.concatenate([run(x[i : i + batch]).argmax(1) for i in range(0, max(x.shape[:1], default=1), batch)])
    return classes, None if y is None else float((classes == y).mean())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for word, count in {"file": None, "inputs": None, "labels": "?"}.items():
        parser.add_argument(word, nargs=count)
    parser.add_argument("--preset", default="parity", help=" or ".join(PRESETS))
    given = parser.parse_args()
    try:
        x, y = (np.load(path) if path else None for path in (given.inputs, given.labels))
        if not all(isinstance(value, (np.ndarray, type(None))) for value in (x, y)):
            raise ValueError("inputs and labels are one array each, in .npy files.")
        classes, right = evaluate(load(given.file, given.preset), x, y)
    except (OSError, ValueError, EOFError, MemoryError) as error:
        sys.exit(print(f"infer: error: {str(error).splitlines()[0]}", file=sys.stderr) or 2)
    print("\n".join(map(str, classes)) if right is None else f"accuracy {right:.4f} of {len(x)}")
