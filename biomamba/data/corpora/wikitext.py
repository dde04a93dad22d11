"""WikiText: articles put together again from the row per line of the hub layout."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from biomamba.data.corpora.columns import column_text
from biomamba.data.document import Document, Reject
from biomamba.data.rows import RawShard, Row, RowSource

_TITLE = re.compile(r" = (?!= )(.+)(?<! =) = \n?")


@dataclass(frozen=True)
class WikiText:
    """Articles of WikiText (raw), keyed by their title.

    A row is one line. An article begins at a level-1 heading ` = Title = ` between two blank rows;
    ` = = Section = = ` stays inside. The blank rows matter: the test split holds two lines of a
    formula that look like a heading. The tokenised punctuation (` @-@ `) is kept.

    Attributes:
        rows: Where the rows come from; an article never spans two raw shards.
        licence: Terms of use, written into the manifest.
        domain: Name of the kind of text.
    """

    rows: RowSource
    licence: str
    domain: str = "wikipedia"

    def shards(self) -> Sequence[RawShard]:
        """Return the raw shards in a fixed order."""
        return self.rows.shards()

    def settings(self) -> dict[str, Any]:
        """Return everything that decides the documents, apart from the raw bytes."""
        return {"layout": type(self).__name__, "rows": self.rows.settings()}

    def documents(self, shard: RawShard) -> Iterator[Document | Reject]:
        """Group the lines of one raw shard into articles, in order."""
        lines: list[str] = []
        for number, row in enumerate(shard.rows(), start=1):
            line = _line(row, f"{shard.name} row {number}")
            if isinstance(line, Reject):
                yield line
            else:
                lines.append(line)
        starts = [i for i in range(len(lines)) if _is_title(lines, i)]
        preface = "".join(lines[: starts[0]] if starts else lines).strip()
        if preface:
            yield Reject("text before the first heading", f"{shard.name} row 1")
        for start, stop in pairwise([*starts, len(lines)]):
            yield self._article(lines[start:stop])

    def _article(self, lines: list[str]) -> Document | Reject:
        title = lines[0].strip().strip("=").strip()
        if not "".join(lines[1:]).strip():
            return Reject("empty article", title)
        return Document("".join(lines).strip(), title, self.domain)


def _line(row: Row | Reject, where: str) -> str | Reject:
    if isinstance(row, Reject):
        return row
    line = column_text(row, "text", where)
    if isinstance(line, Reject) or not line or line.endswith("\n"):
        return line
    return line + "\n"


def _is_title(lines: list[str], index: int) -> bool:
    if _TITLE.fullmatch(lines[index]) is None:
        return False
    before = lines[index - 1] if index else ""
    after = lines[index + 1] if index + 1 < len(lines) else ""
    return not before.strip() and not after.strip()
