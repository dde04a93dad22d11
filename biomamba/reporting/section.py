"""What a report is made of: sections of sentences, tables and pictures, whatever it becomes."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table; the first column names its lines.

    Attributes:
        name: Of its CSV file, different for every table of a report.
        caption: What it shows, and how to read it.
        header: Names of the columns.
        rows: Cells as they are shown.
        files: What it was made from.
        values: The content of the CSV file where that holds more than the cells do.
    """

    name: str
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    files: Sequence[str] = ()
    values: str | None = None

    def csv(self) -> str:
        """Return the content of the CSV file."""
        return self.values if self.values is not None else csv_of(self.header, self.rows)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG with the sentence below it; name and files as those of a table."""

    name: str
    caption: str
    png: bytes
    files: Sequence[str] = ()


Part = str | Table | Picture  # a str is a paragraph


@dataclass(frozen=True)
class Section:
    """A part of a report with a title; a section without data says what would fill it."""

    title: str
    parts: Sequence[Part]

    @property
    def anchor(self) -> str:
        """The title as the end of a link."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


def labels_of(sections: Sequence[Section]) -> dict[str, str]:
    """Return `Table 1`, `Figure 1`, ... by the names of tables and pictures.

    Raises:
        ValueError: Two of them have the same name: they are names of files.
    """
    names = [p.name for s in sections for p in s.parts if isinstance(p, Table | Picture)]
    if len(set(names)) < len(names):
        raise ValueError(f"tables and pictures need names of their own, got {sorted(names)}")
    labels: dict[str, str] = {}
    for kind, word in ((Table, "Table"), (Picture, "Figure")):
        found = [part for section in sections for part in section.parts if isinstance(part, kind)]
        labels |= {part.name: f"{word} {number}" for number, part in enumerate(found, start=1)}
    return labels


def csv_of(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return lines of CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
