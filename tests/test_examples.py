"""The example runs as a user would run it."""

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parent.parent / "examples" / "train_spiking_mnist.py"


def test_spiking_example_on_the_bundled_digits(tmp_path):
    call = [sys.executable, EXAMPLE, "--dataset", "digits", "--epochs", "2", "--out", tmp_path / "out"]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert "digits" in lines[0]
    assert "digits" in lines[-1]
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"raster.png", "learning_curve.png", "spiking.onnx"}
    assert "backprop through time" in done.stdout or "backpropagation" in done.stdout
