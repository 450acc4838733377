"""Random states of this process: torch's, NumPy's and Python's, as plain data.

edgepep's own numbers are functions of what they are for (edgepep.noise) and need none of this; a user's modules, such
as torch's Dropout, draw from these.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from edgepep.errors import RunError


def state(device: torch.device) -> dict[str, Any]:
    """States of all generators that a step on a device may draw from."""
    version, words, spare = random.getstate()
    legacy: Any = np.random.get_state(legacy=False)  # noqa: NPY002 - the one that others draw from
    found: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": [version, torch.tensor(words, dtype=torch.int64), spare],
    }
    if legacy["bit_generator"] == "MT19937":
        key = torch.from_numpy(legacy["state"]["key"].astype(np.int64))
        found["numpy"] = [key, int(legacy["state"]["pos"]), int(legacy["has_gauss"]), float(legacy["gauss"])]
    if device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        found["mps"] = torch.mps.get_rng_state()
    return found


def restore(state: dict[str, Any], device: torch.device) -> None:
    """Put the generators back.

    Raises:
        RunError: if these are no states of generators.

    """
    try:
        version, words, spare = state["python"]
        random.setstate((version, tuple(words.tolist()), spare))
        if "numpy" in state:
            key, position, spared, gauss = state["numpy"]
            inner = {"key": key.numpy().astype(np.uint32), "pos": position}
            np.random.set_state(  # noqa: NPY002
                {"bit_generator": "MT19937", "state": inner, "has_gauss": spared, "gauss": gauss}
            )
        torch.set_rng_state(state["torch"])
        if "cuda" in state and device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"], device)
        if "mps" in state and device.type == "mps":
            torch.mps.set_rng_state(state["mps"])
    except (KeyError, ValueError, TypeError, RuntimeError, AttributeError, OverflowError) as error:
        raise RunError(f"its random states cannot be used: {(str(error).splitlines() or ['?'])[0]}.") from error
