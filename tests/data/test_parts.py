"""Shares of the raw shards."""

import pytest

from biomamba.data.raw_shards import Part
from biomamba.runtime.errors import ConfigError


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
def test_every_item_is_in_one_part(count: int) -> None:
    items = list(range(13))
    parts = [Part(number, count).of(items) for number in range(1, count + 1)]
    assert sorted(item for part in parts for item in part) == items
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_part_is_read_from_its_number_and_count() -> None:
    assert Part.parse("3/16") == Part(3, 16)
    assert str(Part(3, 16)) == "3/16"


@pytest.mark.parametrize("text", ["0/4", "5/4", "1/0", "3", "a/b", "1/2/3", "-1/2", "", "1 /2"])
def test_what_names_no_part_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="part is"):
        Part.parse(text)
