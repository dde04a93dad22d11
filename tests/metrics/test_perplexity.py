"""Perplexity and bits per byte."""

import math

import numpy as np
import pytest
import torch

from biomamba.metrics.perplexity import TokenNll, bits_per_byte, perplexity, perplexity_of_sums


def test_uniform_model_has_perplexity_of_the_vocabulary_size() -> None:
    num_tokens, vocab_size = 7, 257
    nll_sum = num_tokens * math.log(vocab_size)
    assert perplexity(nll_sum, num_tokens) == pytest.approx(vocab_size, rel=1e-12)


def test_one_bit_for_each_byte_is_one_bit_per_byte() -> None:
    assert bits_per_byte(10 * math.log(2), num_bytes=10) == pytest.approx(1.0, rel=1e-12)


def test_perplexity_of_nothing_is_nan_and_of_an_overflow_is_inf() -> None:
    assert math.isnan(perplexity(0.0, 0))
    assert math.isnan(bits_per_byte(0.0, 0))
    assert perplexity(1e6, 1) == math.inf


def test_totals_weigh_tokens_and_not_batches() -> None:
    totals = TokenNll()
    # One batch of 1 token at 4 nats, one of 3 tokens at 0 nats: 1 nat a token, not 2 a batch.
    for nll_sum, num_tokens, num_bytes in ((4.0, 1, 2), (0.0, 3, 6)):
        totals.update(torch.tensor(nll_sum), torch.tensor(num_tokens), torch.tensor(num_bytes))
    values = totals.compute()
    assert values["nll"] == 1.0
    assert values["perplexity"] == pytest.approx(math.e)
    assert values["bits_per_byte"] == pytest.approx(4 / (8 * math.log(2)))


def test_totals_keep_what_float32_would_lose() -> None:
    totals = TokenNll()
    totals.update(torch.tensor(2.0**24), torch.tensor(1), torch.tensor(1))
    totals.update(torch.tensor(1.0), torch.tensor(1), torch.tensor(1))
    assert totals.compute()["nll"] == (2**24 + 1) / 2


def test_totals_that_were_reset_in_inference_mode_take_further_batches() -> None:
    totals = TokenNll()
    one = torch.tensor(1)
    with torch.inference_mode():
        totals.update(one.float(), one, one)
        totals.reset()
    totals.update(one.float(), one, one)
    assert totals.compute()["nll"] == 1.0


def test_sums_become_one_perplexity_per_row() -> None:
    sums = np.array([[2.0, 2.0, 9.0], [0.0, 5.0, 9.0]])
    assert perplexity_of_sums(sums) == pytest.approx([math.e, 1.0])
