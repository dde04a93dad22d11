"""A share of the raw shards, for jobs that prepare one set side by side."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from biomamba.runtime.errors import ConfigError

T = TypeVar("T")
_PATTERN = re.compile(r"(\d+)/(\d+)")


@dataclass(frozen=True)
class Part:
    """Part `number` of `count`, from 1."""

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ConfigError(f"part is {self}; use 1/N to N/N")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Read a part such as `3/16`.

        Raises:
            ConfigError: If the text names no part.
        """
        match = _PATTERN.fullmatch(text)
        if match is None:
            raise ConfigError(f"part is {text!r}; use NUMBER/COUNT, for example 3/16")
        return cls(int(match[1]), int(match[2]))

    def of(self, items: Sequence[T]) -> Sequence[T]:
        """Return the items of this part; every item is in one part of `count`."""
        return items[self.number - 1 :: self.count]
