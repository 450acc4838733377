"""Real data, where they are on disk."""

import pytest

from edgepep import load
from edgepep.training import fit, prepare


@pytest.mark.data
def test_one_epoch_of_mnist(mnist):
    train, test = mnist
    rule, optimizer, scheduler = prepare(load("mnist-fc"), "pepita", 0, train, "cpu")
    (epoch,) = fit(rule, train, optimizer, epochs=1, scheduler=scheduler, test=test)
    assert epoch.test_accuracy >= 90


@pytest.mark.data
def test_spiking_beats_its_control(mnist):
    train, test = mnist
    reached = {}
    for name in ("pepita", "frozen_hidden"):
        rule, optimizer, _ = prepare(load("mnist-fc-spiking"), name, 0, train, "cpu")
        *_, last = fit(rule, train, optimizer, epochs=2, test=test)
        reached[name] = last.test_accuracy
    assert reached["pepita"] >= 90
    assert reached["pepita"] >= reached["frozen_hidden"] + 3


def test_a_torchvision_that_does_not_fit_torch_is_said_clearly(monkeypatch, tmp_path):
    import builtins

    from edgepep import DataError, datasets

    honest = builtins.__import__

    def mismatch(name, *rest):
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")
        return honest(name, *rest)

    monkeypatch.setattr(builtins, "__import__", mismatch)
    with pytest.raises(DataError, match=r"installed as a pair: pip install .*torch torchvision"):
        datasets.load("mnist", True, tmp_path)
