"""Run an edgepep ONNX file: python infer.py net.onnx inputs.npy [labels.npy] [--preset parity|fast].

Needs numpy and onnxruntime, nothing else. Inputs are float32 [n, ...] as the network was trained on, labels are [n].
"""

import argparse
import sys

import numpy as np
import onnxruntime

PRESETS = ("parity", "fast")
MOST = 2**31 - 1  # bytes of a model, as of any protobuf message
# Where an ONNX model can hold tensors: by kind of message, the fields that matter and the kinds that they hold.
_PARTS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_ELSEWHERE = (13, 14)  # a tensor's external_data and data_location
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


def fields(message):
    """Number, and content or value, of each field of a protobuf message; ValueError if it is not one."""
    at, size = 0, len(message)

    def varint():
        nonlocal at
        value = 0
        for shift in range(0, 70, 7):
            if at >= size:
                break
            byte, at = message[at], at + 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("the model is damaged: a number in it does not end.")

    while at < size:
        tag = varint()
        kind = tag & 7
        if kind == 0:
            yield tag >> 3, varint()
            continue
        length = {1: 8, 5: 4}.get(kind) if kind != 2 else varint()
        if length is None or length > size - at:
            raise ValueError("the model is damaged: a part of it is longer than the whole.")
        yield tag >> 3, message[at : at + length]
        at += length


def whole(model):
    """A model's bytes, from a file's path or bytes; ValueError if it is damaged, or keeps data in other files."""
    if not isinstance(model, bytes):
        try:
            with open(model, "rb") as file:
                model = file.read(MOST + 1)
        except OSError as error:
            raise ValueError(f"cannot read {model}: {error.strerror}.") from error
    if len(model) > MOST:
        raise ValueError(f"the model has more than {MOST} bytes.")
    left = [("model", memoryview(model))]
    while left:
        kind, message = left.pop()
        for number, value in fields(message):
            if kind == "tensor" and number in _ELSEWHERE and value != 0:
                raise ValueError("the model keeps data in other files, which are not read; write it as one file.")
            part = _PARTS[kind].get(number)
            if part and not isinstance(value, int):
                left.append((part, value))
    return model


def session(model, preset="parity", threads=0):
    """Make a session for a file's path or bytes; ValueError for a preset or a model that cannot be used."""
    if preset not in PRESETS:
        raise ValueError(f"no preset called {preset!r}; there are: {', '.join(PRESETS)}.")
    model = whole(model)
    options = onnxruntime.SessionOptions()
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
        classes, right = evaluate(load(given.file, given.preset), x, y)
    except (OSError, ValueError, EOFError) as error:
        sys.exit(print(f"infer: error: {str(error).splitlines()[0]}", file=sys.stderr) or 2)
    print("\n".join(map(str, classes)) if right is None else f"accuracy {right:.4f} of {len(x)}")
