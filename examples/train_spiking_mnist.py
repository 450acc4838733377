"""Train a spiking network without a backward pass, and take it to an ONNX file.

    python examples/train_spiking_mnist.py [--dataset auto|mnist|digits] [--epochs N] [--out DIR]

Beside PEPITA stand the frozen-hidden control and, for the memory of one step, backpropagation through time.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import edgepep
from edgepep import datasets, export, spikeplots, training


def choose(dataset: str) -> str:
    """MNIST when it is on disk or can be downloaded, else the digits that scikit-learn bundles."""
    try:
        datasets.load("mnist" if dataset == "auto" else dataset, train=True)
    except edgepep.DataError:
        dataset = "digits" if dataset == "auto" else dataset
    return "mnist" if dataset == "auto" else dataset


def learn(recipe: edgepep.Recipe, rule: str, epochs: int, train: datasets.Data, test: datasets.Data):
    """Train one network; return it and the test accuracy after each epoch."""
    made, optimizer, scheduler = training.prepare(recipe, rule, 0, train, "cpu")
    curve, size = [], recipe.settings(rule).batch_size
    for epoch in edgepep.fit(made, train, optimizer, epochs=epochs, batch_size=size, scheduler=scheduler, test=test):
        print(f"{rule:>13}  epoch {epoch.epoch}  test {epoch.test_accuracy:.2f} %  {epoch.seconds:.1f} s", flush=True)
        curve.append(epoch.test_accuracy)
    return made.network, curve


def plot(network: edgepep.Network, x, curves: dict[str, list[float]], out: Path) -> None:
    """Save the spikes that one image evokes, and the learning curves."""
    spikeplots.raster(network, x).savefig(out / "raster.png", dpi=150)
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for (rule, curve), style in zip(curves.items(), ("o-", "s--"), strict=True):
        axes.plot(range(1, len(curve) + 1), curve, style, color="black", label=rule.replace("_", " "))
    axes.set(xlabel="epoch", ylabel="test accuracy, %", title="Spiking network, no backward pass")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()
    figure.savefig(out / "learning_curve.png", dpi=150)


def main() -> None:
    """Train, compare, plot, export, check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=["auto", "mnist", "digits"], default="auto")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/spiking-example"))
    given = parser.parse_args()
    name = choose(given.dataset)
    print(f"data: {name}" + " (MNIST is not to be had)" * ((given.dataset, name) == ("auto", "digits")))
    given.out.mkdir(parents=True, exist_ok=True)
    recipe = edgepep.load("mnist-fc-spiking").but(dataset=name)
    train, test = (datasets.load(name, part) for part in (True, False))
    trained = {rule: learn(recipe, rule, given.epochs, train, test) for rule in ("pepita", "frozen_hidden")}
    network, curve = trained["pepita"]
    memory = {rule: edgepep.profile(recipe, rule).total_memory / 1e6 for rule in ("pepita", "backprop")}
    plot(network, test.take(slice(0, 1))[0], {rule: curve for rule, (_, curve) in trained.items()}, given.out)
    parity = export.save(network, given.out / "spiking.onnx", "onnx", test.take(slice(0, 1000))[0])
    print(f"accuracy: pepita {curve[-1]:.2f} %, frozen hidden layer {trained['frozen_hidden'][1][-1]:.2f} %")
    print(f"memory of one step: pepita {memory['pepita']:.2f} MB, backprop through time {memory['backprop']:.2f} MB")
    print(f"onnxruntime: {parity}\nraster.png, learning_curve.png and spiking.onnx are in {given.out} (data: {name})")


if __name__ == "__main__":
    main()
