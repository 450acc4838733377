"""Learn on a device: python learn.py DIRECTORY x.npy labels.npy [--rate R] [--batch N] [--epochs N].

The directory holds what `edgepep export RUN --training` wrote. Needs numpy and onnxruntime, nothing else. Inputs are
float32 [n, ...] as the network was trained on, labels are class indices [n]. The state is written back, whole or not at
all, after each epoch.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from infer import evaluate
from sessions import session
from state import save, unpack


class Learner:
    """A network that learns where it runs: `learn` a batch, `answer`, `save`; ValueError for what does not fit."""

    def __init__(self, directory, state=None):
        self.path = Path(state or Path(directory) / "state.safetensors")
        self.step, self.network = (session(str(Path(directory) / f"{w}.onnx")) for w in ("training_step", "inference"))
        about = self.step.get_modelmeta().custom_metadata_map
        if about.get("edgepep.version") != "1":
            raise ValueError(f"training_step.onnx is of version {about.get('edgepep.version')}; this reads 1.")
        self.rate, self.state = float(about["edgepep.learning_rate"]), unpack(self.path.read_bytes())
        for given in self.step.get_inputs()[3:]:
            if given.name not in self.state or list(self.state[given.name].shape) != given.shape:
                raise ValueError(f"the state does not fit training_step.onnx: {given.name} must be {given.shape}.")

    def _run(self, run, x, **more):
        shape, given = run.get_inputs()[0].shape, {"x": x, **more}
        if x.dtype != np.float32 or x.ndim != len(shape) or not len(x) or list(x.shape[1:]) != shape[1:]:
            raise ValueError(f"inputs are {x.dtype} {list(x.shape)}; the network takes float32 {shape}.")
        return run.run(None, {i.name: given.get(i.name, self.state.get(i.name)) for i in run.get_inputs()})

    def learn(self, x, labels, rate=None):
        """One step on inputs [n, ...] and labels [n]; the loss before it. A loss that is no number changes nothing."""
        classes, labels = self.step.get_outputs()[1].shape[1], np.asarray(labels, np.int64)
        if labels.shape != x.shape[:1] or (labels < 0).any() or (labels >= classes).any():
            raise ValueError(f"labels must be {len(x)} numbers from 0 to {classes - 1}.")
        rate = np.array(self.rate if rate is None else rate, np.float32)
        loss, _, *new = self._run(self.step, x, target=labels, learning_rate=rate)
        names = [out.name.removeprefix("new.") for out in self.step.get_outputs()[2:]]
        if not np.isfinite(loss) or not all(np.isfinite(v).all() for v in new):
            raise ValueError(f"the loss is {loss}, or a weight is no number any more: lower the rate ({rate}).")
        self.state.update(zip(names, new, strict=True))
        return float(loss)

    def answer(self, x):
        """Logits [n, classes] of inputs [n, ...]."""
        return self._run(self.network, x)[0]

    def save(self, path=None):
        """Write the state, whole or not at all, even if the power fails."""
        save(self.state, path or self.path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for word in ("directory", "inputs", "labels"):
        parser.add_argument(word)
    for word, kind, default in (("rate", float, None), ("batch", int, 16), ("epochs", int, 1)):
        parser.add_argument(f"--{word}", type=kind, default=default)
    given = parser.parse_args()
    try:
        learner, x, y = Learner(given.directory), np.load(given.inputs), np.load(given.labels)
        print(f"accuracy {evaluate(learner.answer, x, y)[1]:.4f} of {len(x)}")
        for epoch in range(given.epochs):
            order = np.random.default_rng(epoch).permutation(len(x))
            for i in range(0, len(x), given.batch):
                learner.learn(x[order[i : i + given.batch]], y[order[i : i + given.batch]], given.rate)
            learner.save()
            print(f"epoch {epoch + 1}/{given.epochs}: accuracy {evaluate(learner.answer, x, y)[1]:.4f}", flush=True)
    except (OSError, ValueError, EOFError) as error:
        sys.exit(print(f"learn: error: {str(error).splitlines()[0]}", file=sys.stderr) or 2)
