"""Keys and splits."""

import numpy as np
import pytest

from biomamba.data.document import SPLITS, SplitRule, document_key, text_id


def test_document_key_is_the_pinned_hash() -> None:
    # A changed hash would move documents between the splits of existing stores.
    assert document_key("1341608") == 0xFDC43642C4CDA904


def test_text_id_is_equal_for_equal_texts_only() -> None:
    assert text_id("a b") == text_id("a b") != text_id("a  b")


def test_lone_surrogates_have_a_key() -> None:
    assert document_key("\ud800") != document_key("\ud801")


def test_split_shares_follow_the_permilles() -> None:
    keys = np.array([document_key(str(i)) for i in range(20_000)], dtype=np.uint64)
    counts = np.bincount(SplitRule(val_permille=30, test_permille=50).indices(keys), minlength=3)
    # Three standard deviations of a binomial draw.
    expected = np.array([0.92, 0.03, 0.05])
    deviation = 3 * np.sqrt(20_000 * expected * (1 - expected))
    assert (np.abs(counts - 20_000 * expected) < deviation).all()


def test_raising_val_permille_leaves_the_test_split_alone() -> None:
    keys = np.arange(5_000, dtype=np.uint64)
    small, large = SplitRule(10, 50).indices(keys), SplitRule(300, 50).indices(keys)
    assert np.array_equal(small == 2, large == 2)


def test_split_of_names_what_indices_number() -> None:
    rule = SplitRule(200, 300)
    keys = np.array([document_key(str(i)) for i in range(50)], dtype=np.uint64)
    names = [SPLITS[index] for index in rule.indices(keys)]
    assert [rule.split_of(int(key)) for key in keys] == names


def test_boundaries_of_the_key_space_are_exact() -> None:
    rule = SplitRule(val_permille=1, test_permille=2)
    assert [rule.split_of(key) for key in (0, 1, 2, 3, 999, 1000, 1002)] == [
        "test",
        "test",
        "val",
        "train",
        "train",
        "test",
        "val",
    ]


@pytest.mark.parametrize(("val", "test"), [(-1, 0), (0, -1), (500, 500)])
def test_impossible_shares_are_refused(val: int, test: int) -> None:
    with pytest.raises(ValueError, match=r"(val|test)_permille"):
        SplitRule(val, test)
