"""The published cells, and the same from the layers as they are."""

import csv
from pathlib import Path

import pytest

from edgepep import EdgepepError, load
from edgepep.profiling.accounting import PROCEDURES, exact, paper

# Published figures of Pau & Aymone 2023 (spreadsheet, 2023-04-06), per sample: training MACC and activation bytes, and
# inference MACC and RAM, of BP, FF, PEPITA and MEMPEPITA.
PUBLISHED = {
    "ds-cnn": (
        (7_666_544, 72_602, 2_664_996, 20_096),
        (10_931_120, 20_586, 33_705_504, 20_586),
        (7_992_652, 72_602, 2_664_996, 20_096),
        (10_657_648, 28_096, 2_664_996, 20_096),
    ),
    "mobilenet": (
        (22_356_136, 259_467, 7_618_726, 55_296),
        (31_454_720, 82_945, 16_221_952, 82_945),
        (22_909_134, 259_467, 7_618_726, 55_296),
        (30_527_860, 92_160, 7_618_726, 55_296),
    ),
    "resnet8": (
        (37_099_592, 113_779, 12_534_590, 49_152),
        (50_416_168, 52_225, 127_064_520, 52_225),
        (37_601_542, 113_779, 12_534_590, 49_152),
        (50_136_132, 81_920, 12_534_590, 49_152),
    ),
    "autoencoder": (
        (711_296, 2_312, 264_192, 768),
        (1_063_456, 1_408, 267_536, 768),
        (1_202_816, 2_312, 264_192, 768),
        (1_467_008, 1_408, 264_192, 768),
    ),
}
# The same with the sheet's input errors mended: training MACC and activation bytes.
CORRECTED = {
    "ds-cnn": ((7_666_544, 72_614), (10_931_120, 16_490), (7_992_652, 72_614), (10_657_648, 24_000)),
    "mobilenet": ((21_975_976, 259_466), (30_889_480, 82_944), (22_528_974, 259_466), (30_020_980, 92_160)),
    "resnet8": ((37_099_592, 117_874), (50_416_168, 52_224), (37_601_542, 117_874), (50_136_132, 81_920)),
    "autoencoder": ((711_296, 2_312), (1_063_456, 1_408), (1_202_816, 2_312), (1_467_008, 1_408)),
}
PARAMETERS = {"ds-cnn": 22_604, "mobilenet": 210_850, "resnet8": 77_706, "autoencoder": 265_864}
each = pytest.mark.parametrize("name", PUBLISHED)


@each
def test_paper_gives_the_published_cells(name):
    sheet = paper(load(name))
    for procedure, cells in zip(PROCEDURES, PUBLISHED[name], strict=True):
        found = sheet.cells(procedure)
        assert (found.training_macs, found.training_activations, found.inference_macs, found.inference_ram) == cells


@each
def test_exact_gives_the_corrected_cells(name):
    sheet = exact(load(name))
    assert sheet.parameters == PARAMETERS[name]
    for procedure, cells in zip(PROCEDURES, CORRECTED[name], strict=True):
        found = sheet.cells(procedure)
        assert (found.training_macs, found.training_activations) == cells


def test_memory_of_the_repeated_pass_is_one_forward_pass():
    for name in PUBLISHED:
        sheet = exact(load(name))
        forward = sheet.cells("BP").inference_macs
        assert sheet.cells("MEMPEPITA").training_macs - sheet.cells("PEPITA").training_macs == forward


def test_other_networks_are_not_in_the_paper():
    with pytest.raises(EdgepepError, match="of the published networks"):
        paper(load("mnist-fc"))


TABLES = Path(__file__).parent.parent.parent / "shared" / "spec" / "tables"


@pytest.mark.skipif(not TABLES.is_dir(), reason="the collected tables are not beside the repository")
def test_the_collected_tables_agree():
    names = {"DS-CNN": "ds-cnn", "MobileNet": "mobilenet", "ResNet": "resnet8", "AutoEncoder": "autoencoder"}
    wanted = {
        "training MACC per sample": "training_macs",
        "training peak activation memory": "training_activations",
        "inference MACC per sample": "inference_macs",
        "inference peak activation memory (=inference RAM)": "inference_ram",
    }
    seen = 0
    with (TABLES / "expected.csv").open() as file:
        for row in csv.DictReader(file):
            if row["quantity"] in wanted and row["procedure"] in PROCEDURES and row["model"] in names:
                cells = paper(load(names[row["model"]])).cells(row["procedure"])
                assert getattr(cells, wanted[row["quantity"]]) == int(row["value"]), row
                seen += 1
    assert seen == 64
    with (TABLES / "corrected.csv").open() as file:
        for row in csv.DictReader(file):
            quantity = wanted.get(row["quantity"].removesuffix(" (byte)"))
            if row["model"] in names and quantity:
                cells = exact(load(names[row["model"]])).cells(row["procedure"])
                assert getattr(cells, quantity) == int(row["recomputed_exact"]), row
                seen += 1
    assert seen == 96
