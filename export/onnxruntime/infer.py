"""Run an edgepep ONNX file: python infer.py net.onnx inputs.npy [labels.npy] [--preset parity|fast].

Needs numpy and onnxruntime, nothing else. Inputs are float32 [n, ...] as the network was trained on, labels are [n].
"""

import argparse
import sys

import numpy as np
import onnxruntime

PRESETS = ("parity", "fast")
MOST = 2**31 - 1  # bytes of a model, as of any protobuf message
# One MatMulInteger of uint8 and int8 matrices, to see how this processor multiplies them.
_PROBE = (
    b'\x08\x08\x12\x00:=\n\x18\n\x01a\n\x01b\x12\x01c"\rMatMulInteger\x12\x00Z\t\n\x01a\x12\x04\n\x02\x08\x02'
    b"Z\t\n\x01b\x12\x04\n\x02\x08\x03b\t\n\x01c\x12\x04\n\x02\x08\x06B\x04\n\x00\x10\n"
)


def saturates():
    """Whether this processor clips sums of uint8 x int8 pairs at 16 bits: x86-64 without VNNI instructions."""
    run = onnxruntime.InferenceSession(_PROBE, providers=["CPUExecutionProvider"]).run
    b = np.full((64, 16), 127, np.int8)
    return any((run(None, {"a": np.full((n, 64), 255, np.uint8), "b": b})[0] != 64 * 255 * 127).any() for n in (1, 8))


def session(model, preset="parity", threads=0):
    """Make a session for a file's path or bytes; ValueError for a preset or a model that cannot be used."""
    if preset not in PRESETS:
        raise ValueError(f"no preset called {preset!r}; there are: {', '.join(PRESETS)}.")
    if not isinstance(model, bytes):
        with open(model, "rb") as file:
            model = file.read(MOST)
    options = onnxruntime.SessionOptions()
    # Tensors that a model keeps in other files are looked for where there is nothing.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", "/dev/null/none")
    options.log_severity_level, options.intra_op_num_threads = 3, threads
    if preset == "parity":  # weights become floats when the file is loaded, and the arithmetic is that of training
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    else:  # products of 8-bit integers, without the two ways in which they come out wrong:
        if saturates():  # sums of uint8 x uint8 are exact everywhere; with VNNI they would only take twice the time
            options.add_session_config_entry("session.x64quantprecision", "1")
        # Activations that the network keeps in floats stay so: by default they are rounded to 8 bits here.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a dozen types of its own, without a common base
        raise ValueError(f"onnxruntime cannot load the model: {str(error).splitlines()[0]}") from error


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
