"""Run by tests as one of several processes: an epoch in parallel of each case; says the digests of the weights."""

import hashlib
import os
import sys
from pathlib import Path

import torch

from edgepep import datasets, load
from edgepep.parallel import Group, Parallel, joined
from edgepep.training import prepare

DROPPED = {"prepare": ["flatten"], "synapses": "linear", "features": 24, "dropout": 0.2}
CASES = {
    "plain": {},
    "dropout": {"network": {"layers": [DROPPED, {"synapses": "linear", "features": "classes"}]}},
    "int8": {"quantized": {"weight_bits": 8, "weights": "integer"}},
    "spiking": {"spiking": {"steps": 6, "code": "poisson"}, "rules": {"pepita": {"strength": 0.05}}},
}
RULES = ["pepita", "feedback_alignment", "backprop"]
BATCH = 70  # not a multiple of the parts; the last batch is shorter still


def digest(case: str, rule: str, group: Group, dies: int = -1) -> str:
    """SHA-256 of all weights and buffers after one epoch."""
    data = datasets.load("digits", True)
    recipe = load("digits-fc").but(**CASES[case])
    made, optimizer, _ = prepare(recipe, rule, 0, data, "cpu")
    step = Parallel(made, optimizer, group, data.take(slice(0, BATCH)))
    made.train()
    for number, (x, target, samples) in enumerate(data.shuffled(BATCH, 0, 1)):
        if group.rank == group.size - 1 and number == dies:
            os._exit(1)
        outcome = step(x, target, samples)
        assert outcome.logits.shape == (len(target), 10)
    return hashlib.sha256(b"".join(v.contiguous().numpy().tobytes() for v in made.state_dict().values())).hexdigest()


def all_digests(group: Group) -> list[str]:
    """Of every case with PEPITA, and of every rule on the plain one."""
    pairs = [*((case, "pepita") for case in CASES), *(("plain", rule) for rule in RULES[1:])]
    return [f"{case} {rule} {digest(case, rule, group)}" for case, rule in pairs]


if __name__ == "__main__":
    out, *dies = sys.argv[1:]
    torch.set_num_threads(1)
    with joined("cpu") as group:
        assert group is not None
        said = [digest("plain", "pepita", group, int(dies[0]))] if dies else all_digests(group)
        Path(f"{out}-{group.rank}").write_text("\n".join(said))
