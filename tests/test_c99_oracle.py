"""Inference by others: the exported ONNX compiled by emmtrix's emx-onnx-cgen answers as our own C does."""

import ctypes
import importlib.util
import subprocess
import sys

import pytest
import torch

from edgepep import export
from edgepep.c99.host import compiler
from tests.c99_networks import NETWORKS, exported, made

pytestmark = [
    pytest.mark.skipif(compiler() is None, reason="there is no C compiler here (install gcc, or name one in $CC)"),
    pytest.mark.skipif(
        importlib.util.find_spec("emx_onnx_cgen") is None,
        reason="emx-onnx-cgen is not installed here (pip install 'edgepep[oracles]')",
    ),
]
STATIC = ("--large-temp-threshold", "0", "--large-weight-threshold", "0", "--input-dim", "batch=1")


@pytest.mark.parametrize("kind", [pytest.param(k, marks=() if k == "residual" else pytest.mark.slow) for k in NETWORKS])
def test_another_compiler_of_our_onnx_says_the_same(kind, tmp_path):
    network, x, y = made(kind)
    export.save(network, tmp_path / "other.onnx", "onnx", x)
    command = [sys.executable, "-m", "emx_onnx_cgen", "compile", *STATIC, "other.onnx", "other.c"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert "malloc" not in (tmp_path / "other.c").read_text()
    build = [compiler(), "-std=c99", "-shared", "-fPIC", "-o", "other.so", "other.c", "-lm"]
    subprocess.run(build, cwd=tmp_path, check=True)
    theirs = ctypes.CDLL(str(tmp_path / "other.so"))
    _, ours = exported(network, x, y, None, tmp_path / "c")
    for sample in x:
        flat, logits = sample.flatten().tolist(), (ctypes.c_float * 3)()
        theirs.model((ctypes.c_float * len(flat))(*flat), logits)
        assert (torch.tensor(logits[:]) - ours.infer(sample)).abs().max() < 1e-5
