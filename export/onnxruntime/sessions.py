"""Sessions of onnxruntime for edgepep's files, in two presets; needs numpy and onnxruntime, nothing else."""

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
