"""Event data: samples in the files that tonic reads, as frames, and what is said of damaged ones."""

import math
import sys
from importlib.util import find_spec

import pytest
import torch

from edgepep import DataError, datasets, load
from edgepep.datasets import nmnist
from edgepep.training import fit, prepare

needs_tonic = pytest.mark.skipif(find_spec("tonic") is None, reason="no tonic: pip install 'edgepep[events]'")
SHD_KEYS = ("labels", "spikes/times", "spikes/units", "extra/keys", "extra/speaker")


@pytest.fixture
def offline(monkeypatch):
    """Tonic without a network, which takes N-MNIST to be there from one sample rather than from 10,000."""
    import tonic

    def refuse(*args, **options):
        raise OSError("no network\nat all")

    some = tonic.datasets.NMNIST._folder_contains_at_least_n_files_of_type
    monkeypatch.setattr(tonic.dataset, "download_and_extract_archive", refuse)
    monkeypatch.setattr(
        tonic.datasets.NMNIST, "_folder_contains_at_least_n_files_of_type", lambda self, n, kind: some(self, 1, kind)
    )


@pytest.fixture
def write_nmnist(tmp_path, monkeypatch, offline):
    """Write samples (label, events (x, y, time, polarity) or bytes) as N-MNIST keeps them; return the folder."""

    def write(samples, train=True):
        part = "Train" if train else "Test"
        monkeypatch.setitem(nmnist._SAMPLES, part, len(samples))
        home = tmp_path / "NMNIST"
        for i, (label, events) in enumerate(samples, 1):
            path = home / part / str(label) / f"{i:05d}.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(events if isinstance(events, bytes) else b"".join(packed(*event) for event in events))
        (home / f"{part.lower()}.zip").touch()
        return tmp_path

    return write


def packed(x, y, time, polarity):
    """40 bits: x, y, polarity, and 23 bits of time in microseconds."""
    return bytes([x, y]) + (polarity << 23 | time).to_bytes(3, "big")


@pytest.fixture
def write_shd(tmp_path, offline):
    """Write samples (label, times in seconds, units) as SHD keeps them; return the folder."""
    import h5py
    import numpy as np

    def write(samples, train=True, without=(), labels=None):
        home, name = tmp_path / "SHD", "shd_train.h5" if train else "shd_test.h5"
        home.mkdir(exist_ok=True)
        (home / f"{name}.zip").touch()
        own, times, units = zip(*samples, strict=True)
        with h5py.File(home / name, "w") as file:
            file["labels"] = np.array(own if labels is None else labels, "uint16")
            for key, kind, rows in (("times", "float16", times), ("units", "uint16", units)):
                made = file.create_dataset(f"spikes/{key}", (len(rows),), h5py.vlen_dtype(np.dtype(kind)))
                for i, row in enumerate(rows):
                    made[i] = np.array(row, kind)
            file["extra/keys"] = np.array([b"zero"] * 20)
            file["extra/speaker"] = np.zeros(len(own), "uint16")
            for key in without:
                del file[key]
        return tmp_path

    return write


def filled(shape, *places):
    """Zeros but for counts at places (*index, count)."""
    expected = torch.zeros(shape)
    for *index, count in places:
        expected[tuple(index)] = count
    return expected


GOOD = (3, [(1, 2, 0, 1), (1, 2, 12_599, 1), (33, 33, 12_600, 0), (0, 0, 314_999, 0), (5, 5, 315_000, 0)])
GOOD_SHD = (19, [0.0, 0.015625, 0.02734375, 0.03125, 1.375, 1.5], [0, 699, 699, 699, 7, 7])


@needs_tonic
def test_events_of_nmnist_fall_into_bins_of_fixed_width(write_nmnist):
    late = (0, [(4, 6, 100_000, 1)] * 200)  # the first event does not start the clock, and counts stop at 127
    folder = write_nmnist([GOOD, late])
    data = datasets.load("nmnist", True, folder)
    assert data.inputs.dtype == torch.int8
    x, labels = data.take(slice(None))
    assert labels.tolist() == [0, 3]
    shape = nmnist.SHAPE
    assert torch.equal(x[0], filled(shape, (7, 1, 6, 4, 127)))
    assert torch.equal(x[1], filled(shape, (0, 1, 2, 1, 2), (1, 0, 33, 33, 1), (24, 0, 0, 0, 1)))
    folder = write_nmnist([GOOD], train=False)
    assert torch.equal(datasets.load("nmnist", False, folder).take(slice(None))[0], x[1:])


@needs_tonic
def test_events_of_shd_fall_into_bins_of_fixed_width(write_shd):
    folder = write_shd([GOOD_SHD, (0, [0.7], [350])])
    x, labels = datasets.load("shd", True, folder).take(slice(None))
    assert labels.tolist() == [19, 0]
    assert torch.equal(x[0], filled((50, 700), (0, 0, 1), (0, 699, 2), (1, 699, 1), (49, 7, 1)))
    assert torch.equal(x[1], filled((50, 700), (25, 350, 1)))  # 0.7 s is 0.70019 in 16 bits
    folder = write_shd([GOOD_SHD], train=False)
    assert torch.equal(datasets.load("shd", False, folder).take(slice(None))[0], x[:1])


def said(name, folder):
    with pytest.raises(DataError) as caught:
        datasets.load(name, True, folder)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@needs_tonic
@pytest.mark.parametrize(
    ("sample", "wanted"),
    [
        ((3, [(1, 1, 9, 0), (1, 1, 8, 0)]), "event 1 is at 8 µs, before event 0 at 9 µs"),
        ((3, [(1, 1, 9, 0), (34, 1, 9, 0)]), "event 1 is at x = 34; the sensor has 0 to 33"),
        ((3, [(1, 99, 9, 0)]), "event 0 is at y = 99; the sensor has 0 to 33"),
        ((3, []), "has no events"),
        ((3, packed(1, 1, 9, 0) + b"\0\0"), "is truncated: its 7 bytes are not whole events of 5 bytes"),
        ((3, bytes(5 << 20) + bytes(5)), "is damaged: it has 1048577 events; at most 1048576 are read"),
        (("three", GOOD[1]), "the label, its folder's name, is 'three'; there are 0 to 9"),
        ((13, GOOD[1]), "the label, its folder's name, is '13'; there are 0 to 9"),
    ],
)
def test_damaged_samples_of_nmnist_are_named(write_nmnist, sample, wanted):
    folder = write_nmnist([GOOD, sample])
    message = said("nmnist", folder)
    assert str(folder / "NMNIST" / "Train" / str(sample[0]) / "00002.bin") in message
    assert wanted in message


@needs_tonic
def test_all_samples_of_nmnist_must_be_there(write_nmnist, monkeypatch):
    folder = write_nmnist([GOOD])
    monkeypatch.setitem(nmnist._SAMPLES, "Train", 60_000)
    assert f"{folder / 'NMNIST' / 'Train'} has 1 samples, not 60000" in said("nmnist", folder)


@needs_tonic
@pytest.mark.parametrize(
    ("sample", "wanted"),
    [
        ((3, [0.5, 0.25], [1, 1]), "sample 1: event 1 is at 250000 µs, before event 0 at 500000 µs"),
        ((3, [-0.5, 0.25], [1, 1]), "sample 1: event 0 is at -500000 µs; time starts at 0"),
        ((3, [0.5, 0.5], [1, 700]), "sample 1: event 1 is at x = 700; the sensor has 0 to 699"),
        ((3, [], []), "sample 1 has no events"),
        ((3, [0.5, 0.5], [1, 2, 3]), "sample 1 cannot be read"),
        ((20, [0.5], [1]), "sample 1: the label is 20; there are 0 to 19"),
    ],
)
def test_damaged_samples_of_shd_are_named(write_shd, sample, wanted):
    folder = write_shd([GOOD_SHD, sample])
    message = said("shd", folder)
    assert str(folder / "SHD" / "shd_train.h5") in message
    assert wanted in message


@needs_tonic
def test_damaged_files_of_shd_are_named(write_shd):
    samples = [GOOD_SHD] * 3
    for key in SHD_KEYS:
        assert f"shd_train.h5 is damaged: it has no {key}." in said("shd", write_shd(samples, without=[key]))
    assert "2 labels, 3 spikes/times, 3 spikes/units" in said("shd", write_shd(samples, labels=[1, 2]))
    assert "8157 samples; at most 8156 are read" in said("shd", write_shd(samples, labels=[1] * 8157))
    folder = write_shd(samples)
    path = folder / "SHD" / "shd_train.h5"
    whole = path.read_bytes()
    for cut in (len(whole) // 2, 100, 0):
        path.write_bytes(whole[:cut])
        assert f"{path} is damaged: " in said("shd", folder)
    spoilt = bytearray(whole)  # the heap that holds the spikes
    spoilt[whole.index(b"GCOL") : whole.index(b"GCOL") + 4] = b"XXXX"
    path.write_bytes(spoilt)
    assert f"{path}: sample 0 cannot be read: " in said("shd", folder)


@needs_tonic
@pytest.mark.parametrize(("name", "archive"), [("nmnist", "NMNIST/train.zip"), ("shd", "SHD/shd_train.h5.zip")])
def test_missing_files_are_said_with_the_folder(name, archive, tmp_path, offline):
    message = said(name, tmp_path)
    assert f"is not in {tmp_path} and could not be downloaded (no network)" in message
    assert archive in message


@pytest.mark.parametrize("name", ["nmnist", "shd"])
def test_without_tonic_the_way_to_install_it_is_said(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tonic", None)
    assert "pip install 'edgepep[events]'" in said(name, tmp_path)


def random_nmnist(label):
    generator = torch.Generator().manual_seed(label)
    x, y = torch.randint(10, 24, (2, 4000), generator=generator).tolist()
    times = torch.randint(315_000, (4000,), generator=generator).sort().values.tolist()
    return label, list(zip(x, y, times, [0, 1] * 2000, strict=True))


def random_shd(label):
    generator = torch.Generator().manual_seed(label)
    times = torch.rand(8000, generator=generator).sort().values.tolist()
    return label, times, torch.randint(35 * label, 35 * label + 35, (8000,), generator=generator).tolist()


@needs_tonic
@pytest.mark.parametrize(("recipe", "classes"), [("nmnist-conv-spiking", 10), ("shd-fc-spiking", 20)])
def test_recipes_train_on_events(recipe, classes, request):
    name = load(recipe).dataset
    make = random_nmnist if name == "nmnist" else random_shd
    folder = request.getfixturevalue(f"write_{name}")([make(label) for label in range(classes)])
    data = datasets.load(name, True, folder)
    rule, optimizer, _ = prepare(load(recipe), "pepita", 0, data, "cpu")
    weights = [p.detach().clone() for p in rule.network.parameters()]
    first, *_, last = fit(rule, data, optimizer, epochs=3, batch_size=5, test=data)
    assert math.isfinite(first.loss)
    assert math.isfinite(last.loss)
    for before, after in zip(weights, rule.network.parameters(), strict=True):
        assert not torch.equal(before, after)
