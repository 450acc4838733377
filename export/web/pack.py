"""Packs the page: its files, and samples of each class to test it on and to keep it from forgetting."""

import shutil
from pathlib import Path

import numpy as np

INPUT, CLASSES = (1, 28, 28), 10
HELD_BACK, MEMORY = 50, 100  # samples of each class
PAGE = (".html", ".css", ".js", ".json", ".svg", ".webmanifest", ".md")


def pack(folder, train, test):
    """Copy the page beside folder/model, and write the samples into that."""
    for path in sorted(Path(__file__).parent.iterdir()):
        if path.suffix in PAGE and path.name != "package-lock.json":
            shutil.copyfile(path, Path(folder) / path.name)
    for name, (inputs, labels), count in (("memory", train, MEMORY), ("held_back", test, HELD_BACK)):
        (Path(folder) / "model" / f"{name}.bin").write_bytes(samples(inputs, labels, count))


def samples(inputs, labels, count):
    """So many samples of each class, from all over the set: n labels in a byte each, then n images of 28 x 28 bytes."""
    of_class = [np.flatnonzero(labels == label) for label in range(CLASSES)]
    spread = [own[np.arange(min(count, len(own))) * len(own) // min(count, len(own))] for own in of_class if len(own)]
    chosen = np.sort(np.concatenate(spread))
    return labels[chosen].astype(np.uint8).tobytes() + inputs[chosen].astype(np.uint8).tobytes()
