"""Products by the other of torch's libraries: the same up to rounding, and only where they are meant to be."""

import pytest
import torch
from torch import nn

from edgepep import InPlaceSGD, Layer, Network, products
from edgepep.local import Product, accumulate_
from edgepep.products import as_torch_does, faster, multiplied
from edgepep.rules.pepita import Pepita


@pytest.fixture
def on_any_processor(monkeypatch):
    """OneDNN is taken on processors of every maker, if torch has it."""
    monkeypatch.setattr(products, "_by_intel", lambda: False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    products._onednn.cache_clear()
    yield
    products._onednn.cache_clear()


needs_onednn = pytest.mark.skipif(
    not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()),
    reason="torch without oneDNN or MKL",
)


@needs_onednn
@torch.no_grad()
def test_they_are_the_same_products(on_any_processor):
    x, weight, bias = torch.randn(64, 300), torch.randn(400, 300), torch.randn(400)
    assert faster(x, weight) is not None
    torch.testing.assert_close(multiplied(x, weight, bias), nn.functional.linear(x, weight, bias), rtol=1e-4, atol=1e-4)
    matrix = torch.randn(400, 300)  # errors go down through a matrix that lies the other way
    delta = torch.randn(64, 400)
    torch.testing.assert_close(multiplied(delta, matrix.t()), delta @ matrix, rtol=1e-4, atol=1e-4)


@needs_onednn
@torch.no_grad()
@pytest.mark.parametrize("rows", [257, 1300])
def test_a_product_is_added_in_place(rows, on_any_processor):
    left, right, buffer = torch.randn(256, rows), torch.randn(256, 600), torch.randn(rows, 600)
    expected = 0.9 * buffer.double() - 0.1 * left.double().t() @ right.double()
    held = buffer.data_ptr()
    assert products.by_stretches(left, right)
    assert accumulate_(buffer, Product(left, right), 0.9, -0.1).data_ptr() == held
    torch.testing.assert_close(buffer.double(), expected, rtol=1e-4, atol=1e-3)
    assert sorted(i for part in products.stretches(buffer) for i in range(rows)[part]) == list(range(rows))


@needs_onednn
def test_where_they_are_left_to_torch(on_any_processor):
    x, weight = torch.randn(64, 300), torch.randn(400, 300)
    assert faster(x, weight) is None  # a gradient may be recorded
    with torch.no_grad():
        for one, other in (
            (x[:4], weight),
            (x[:, :9], weight[:, :9]),
            (x.double(), weight.double()),
            (x[None], weight),
        ):
            assert faster(one, other) is None
        with as_torch_does():
            assert faster(x, weight) is None
            torch.testing.assert_close(multiplied(x, weight), nn.functional.linear(x, weight), rtol=0, atol=0)


def test_processors_that_say_nothing_keep_torch_s_own(monkeypatch):
    for said, intel in (("vendor_id : GenuineIntel", True), ("vendor_id\t: AuthenticAMD", False), ("", True)):
        monkeypatch.setattr(products.Path, "read_text", lambda *_, said=said, **__: said)
        monkeypatch.setattr(products.Path, "is_file", lambda _: True)
        assert products._by_intel() == intel


@needs_onednn
def test_weights_are_those_of_torch_s_products(on_any_processor):
    def trained():
        torch.manual_seed(0)
        layers = [Layer(nn.Linear(300, 400), nn.ReLU()), Layer(nn.Linear(400, 10))]
        network = Network(layers)
        rule = Pepita(network, torch.rand(2, 300))
        InPlaceSGD(network, 0.01, 0.9)
        for _ in range(20):
            rule(torch.rand(64, 300), torch.randint(10, (64,)))
        return [p.detach() for p in network.parameters()]

    ours = trained()
    with as_torch_does():
        theirs = trained()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    assert any((one != other).any() for one, other in zip(ours, theirs, strict=True))
