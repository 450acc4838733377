"""Exports run on emulated Cortex-M boards: what was predicted beside what was touched, linked and executed.

python -m benchmarks.device [NAME ...]

For every network, rule and precision: the arena that was planned and the bytes of it that a step writes; static
memory that was predicted and the linker's; multiply-accumulates and instructions; the weights after some steps, on this
machine and on each board. Kept in results/device.json, which `edgepep profile --executed` shows; what is there is not
run again.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from edgepep import DataError, Recipe, datasets, load
from edgepep.build import rule_class
from edgepep.c99 import boards, plan, save
from edgepep.c99.host import Host
from edgepep.folders import DEVICE

RULES = ("backprop", "dfa", "drtp", "local_heads", "pepita", "mempepita", "last_layer")
RATES = (0.01, 0.001, 0.0001, 0.00001)
"""Of learning: the first at which no step is refused, because the network has diverged."""
EPOCH_RATE = 0.03
DENSE = {"prepare": ["flatten"], "synapses": "linear"}


def conv(features: int, stride: int) -> dict[str, object]:
    return {"synapses": "conv", "features": features, "kernel": 3, "stride": stride, "padding": 1}


def mnist(*layers: dict[str, object]) -> Recipe:
    return load("mnist-fc").but(network={"layers": [*layers], "bias": True})


NETWORKS: dict[str, tuple[Recipe, int, tuple[str, ...], tuple[str, ...]]] = {
    "mlp-784-64-10": (
        mnist(DENSE | {"features": 64}, {"synapses": "linear"}),
        100,
        ("m3", "m4", "m7"),
        ("fp32", "int8"),
    ),
    "cnn-8-16": (mnist(conv(8, 2), conv(16, 2), DENSE), 100, ("m3", "m4", "m7"), ("fp32", "int8")),
    "ds-cnn": (load("ds-cnn"), 100, ("m3", "m4", "m7"), ("fp32", "int8")),
    "resnet8": (load("resnet8"), 100, ("m3", "m4", "m7"), ("fp32", "int8")),
    "digits-fc": (load("digits-fc"), 100, ("m3", "m4", "m7", "lm3s"), ("fp32", "int8")),
    **{
        f"deep-{depth}": (mnist(*[conv(8, 2)], *[conv(8, 1)] * (depth - 1), DENSE), 100, ("m4",), ("fp32",))
        for depth in (1, 2, 3, 4, 6, 8)
    },
}
"""Recipe, training steps, boards, precisions. The last are rows of equal convolutions, to see what depth does."""


def data(recipe: Recipe, count: int) -> tuple[list[tuple[torch.Tensor, int]], str]:
    """Samples of a recipe's data, or random ones, and what they are."""
    try:
        found = datasets.load(recipe.dataset, False)
    except DataError:
        shape, classes = datasets.info(recipe.dataset).shape, datasets.info(recipe.dataset).classes
        generator = torch.Generator().manual_seed(0)
        x = torch.randint(256, (count, *shape), generator=generator) / 255
        return [(sample, i % classes) for i, sample in enumerate(x)], "random"
    x, labels = found.take(slice(0, count))
    return list(zip((x * 255).round() / 255, labels.tolist(), strict=True)), recipe.dataset


def executed(name: str, rule: str, precision: str) -> dict[str, object]:
    """Plan, write, compile and run one configuration."""
    recipe, steps, names, _ = NETWORKS[name]
    network = (recipe if rule == "drtp" else recipe.under(rule)).build(0)  # its own neurons, tanh, have no form in C
    samples, source = data(recipe, min(steps, 20))
    planned = plan(network, samples[0][0].unsqueeze(0), recipe.make_rule(network, rule), precision)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c"
        save(planned, path, samples=samples)
        for rate in RATES:
            host = boards.run(path, "host", steps, rate)
            if not host["refused"]:
                break
        runs = {board: boards.run(path, board, steps, rate, limit=1800) for board in names}
    found: dict[str, object] = {"model": name, **planned.describe(), "steps": steps, "rate": rate, "data": source}
    found |= {"refused": host["refused"], "boards": {}}
    for board, run in runs.items():
        found["boards"][board] = {  # type: ignore[index]
            "arena_touched": run["learn_touched"],
            "static_bytes": run.static,
            "text_bytes": run.sections[".text"],
            "stack_bytes": run["stack"],
            "stack_reserved": run.sections[".stack"],
            "infer_instructions": run["infer_instructions"],
            "learn_instructions": run["learn_instructions"],
            "weights_as_on_host": run["weights"] == host["weights"],
        }
    return found


def epoch() -> dict[str, object]:
    """One epoch of digits by PEPITA in int8 on a part with 64 KB of RAM, beside its control; rates as in the recipe."""
    recipe = load("digits-fc").but(network={"layers": [DENSE | {"features": 512}, {"synapses": "linear"}]})
    train, test = datasets.load("digits", True), datasets.load("digits", False)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    x, labels = train.take(order)
    samples = list(zip(x, labels.tolist(), strict=True))
    found: dict[str, object] = {"network": "64-512-10", "samples": len(samples), "rate": EPOCH_RATE}
    for rule in ("pepita", "last_layer"):
        network = recipe.build(0)
        planned = plan(network, x[:2], recipe.make_rule(network, rule), "int8")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "c"
            save(planned, path, samples=samples)
            host = boards.run(path, "host", len(samples), EPOCH_RATE)
            board = boards.run(path, "lm3s", len(samples), EPOCH_RATE, limit=1800)
            trained = Host(path)
            for sample, label in samples:
                trained.learn(sample, label, EPOCH_RATE)
        shown = zip(*test.take(slice(0, len(test))), strict=True)
        right = sum(int(trained.infer(sample).argmax()) == int(label) for sample, label in shown)
        found[rule] = {
            "ram_bytes": planned.ram,
            "static_bytes": board.static,
            "stack_bytes": board["stack"],
            "stack_reserved": board.sections[".stack"],
            "flash_bytes": board.sections[".text"],
            "weights_as_on_host": board["weights"] == host["weights"] == trained.checksum(),
            "test_right": right,
            "test_samples": len(test),
        }
    network = recipe.build(0)
    found["ram_bytes_fp32"] = plan(network, x[:2], recipe.make_rule(network, "pepita"), "fp32").ram
    return found


def accuracy(seeds: tuple[int, ...] = (0, 1, 2), epochs: int = 10) -> dict[str, object]:
    """Test accuracy of 64-32-10 in int8 on digits, one sample a step, in the C that a device runs.

    Rate and strength of F were chosen on the last fifth of the training set, for PEPITA and for its control; the others
    have the same rate, and the heads one that was chosen there.
    """
    train, test = datasets.load("digits", True), datasets.load("digits", False)
    x, labels = train.take(torch.arange(len(train)))
    recipe, found = load("digits-fc"), {}
    options = {"pepita": {"feedback_scale": 0.1}, "local_heads": {"head_rate": 0.03}}
    for name in ("pepita", "local_heads", "backprop", "last_layer"):
        percent = []
        for seed in seeds:
            network = recipe.build(seed)
            own = options[name] | {"seed": seed} if name in options else {}
            rule = rule_class(name)(network, x[:2], **own)
            with tempfile.TemporaryDirectory() as folder:
                save(plan(network, x[:2], rule, "int8"), Path(folder) / "c")
                host, generator = Host(Path(folder) / "c"), torch.Generator().manual_seed(seed)
            for epoch in range(epochs):
                for i in torch.randperm(len(x), generator=generator).tolist():
                    host.learn(x[i], int(labels[i]), 0.06 if epoch < 0.7 * epochs else 0.012)
            shown = zip(*test.take(slice(0, len(test))), strict=True)
            right = sum(int(host.infer(sample).argmax()) == int(label) for sample, label in shown)
            percent.append(100 * right / len(test))
        found[name] = percent
    return {"network": "64-32-10", "precision": "int8", "epochs": epochs, "seeds": list(seeds), "percent": found}


def tools() -> dict[str, str]:
    commands = ("cc", "arm-none-eabi-gcc", "qemu-system-arm")
    said = {c: subprocess.run([c, "--version"], capture_output=True, text=True, check=True).stdout for c in commands}
    return {command: text.splitlines()[0] for command, text in said.items()}


ONCE = {"epoch": epoch, "accuracy": accuracy}


def _place(run: dict[str, object]) -> tuple[int, ...]:
    """Where a run stands in the file."""
    at = (list(NETWORKS), ("fp32", "int8"), RULES)
    return tuple(names.index(str(run[key])) for names, key in zip(at, ("model", "precision", "rule"), strict=True))


def main() -> None:
    wanted = sys.argv[1:] or [*ONCE, *NETWORKS]
    kept = json.loads(DEVICE.read_text(encoding="utf-8")) if DEVICE.is_file() else {"runs": []}
    kept["tools"] = tools()
    for name in [name for name in ONCE if name in wanted and name not in kept]:
        kept[name] = ONCE[name]()
        DEVICE.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        print(name, json.dumps(kept[name]), flush=True)
    for name in [name for name in wanted if name in NETWORKS]:
        for precision in NETWORKS[name][3]:
            for rule in RULES:
                key = (name, rule, precision)
                if any((run["model"], run["rule"], run["precision"]) == key for run in kept["runs"]):
                    continue
                found = executed(*key)
                kept["runs"] = sorted([*kept["runs"], found], key=_place)
                DEVICE.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
                print(*key, json.dumps(found["boards"]), flush=True)


if __name__ == "__main__":
    main()
