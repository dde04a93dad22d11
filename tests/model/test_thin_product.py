from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from biomamba.model.decoder import ThinProduct


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


# 12 inputs in 1, 2, 3 and 4 parts; 5 threads cannot share 12 inputs evenly, 4 parts are the most.
@pytest.mark.parametrize("num_threads", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.usefixtures("threads")
def test_product_is_that_of_the_matrix(num_threads: int, rows: int) -> None:
    torch.set_num_threads(num_threads)
    weight, x = torch.randn(7, 12, dtype=torch.float64), torch.randn(rows, 12, dtype=torch.float64)

    torch.testing.assert_close(ThinProduct(weight, shares_memory=False)(x), F.linear(x, weight))


def test_narrow_weights_are_multiplied_as_they_are() -> None:
    weight, x = torch.randn(7, 12).bfloat16(), torch.randn(2, 12).bfloat16()

    assert torch.equal(ThinProduct(weight, shares_memory=True)(x), F.linear(x, weight))


@pytest.mark.parametrize("shares_memory", [True, False])
def test_a_narrow_copy_is_multiplied_and_the_weight_left_alone(shares_memory: bool) -> None:
    weight, x = torch.randn(7, 12), torch.randn(2, 12)
    before, strides = weight.clone(), weight.stride()
    product = ThinProduct(weight, shares_memory=shares_memory, dtype=torch.bfloat16)

    assert torch.equal(product(x), F.linear(x.bfloat16(), weight.bfloat16()))
    assert torch.equal(weight, before)
    assert weight.stride() == strides


def test_shared_memory_is_held_once_and_keeps_the_numbers() -> None:
    layer = nn.Linear(12, 7, bias=False)
    before = layer.weight.detach().clone()
    products = [ThinProduct(layer.weight, shares_memory=True) for _ in range(2)]
    memory = layer.weight.untyped_storage().data_ptr()

    assert torch.equal(layer.weight, before)
    for product in products:
        assert product._parts is not None
        assert product._parts.untyped_storage().data_ptr() == memory
    layer(torch.randn(1, 12)).sum().backward()  # the layer still learns
    assert layer.weight.grad is not None


def test_unshared_weight_stays_as_it_was() -> None:
    weight = torch.randn(7, 12)
    ThinProduct(weight, shares_memory=False)

    assert weight.is_contiguous()
