"""Corpora whose documents are columns of rows: C4, Wikipedia, PubMed tables, clinical notes."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import unescape
from itertools import pairwise
from typing import Any

from biomamba.data.document import Document, DocumentFacts, Reject, text_id, year_of
from biomamba.data.rows import RawShard, Row, RowSource, with_columns
from biomamba.runtime.errors import ConfigError
from biomamba.runtime.numbers import check_whole

# -------------------------------------------------------------------------------------------------
# The general corpus: one document per row, its text joined from columns.
# -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ColumnCorpus:
    r"""Documents whose text is the join of some columns.

    A row without one of the columns, or with something other than text in it, is damaged; an empty
    column or a short text is left out by policy. Both are counted by reason.

    Attributes:
        rows: Where the rows come from.
        domain: Name of the kind of text.
        licence: Terms of use, written into the manifest.
        text_columns: Columns joined in this order.
        id_column: Column of the stable id; None names a document by the hash of its text, which
            also removes exact duplicates.
        separator: Text between two columns.
        min_chars: Shorter texts are left out.
        optional_columns: Text columns that may be empty; they are then skipped in the join.
        group_column: Column of what must not be divided between splits, for example the patient;
            None lets every document be on its own.
        year_column: Column of the year of publication, kept beside the tokens: `2003`, or a date;
            None keeps none.
    """

    rows: RowSource
    domain: str
    licence: str
    text_columns: list[str]
    id_column: str | None = None
    separator: str = "\n\n"
    min_chars: int = 1
    optional_columns: list[str] | None = None
    group_column: str | None = None
    year_column: str | None = None

    def __post_init__(self) -> None:
        if not self.text_columns:
            raise ConfigError(f"text_columns of corpus {self.domain!r} is empty; name at least one")
        unknown = sorted(set(self.optional_columns or []) - set(self.text_columns))
        if unknown:
            raise ConfigError(
                f"optional_columns {unknown} are not among text_columns {self.text_columns}"
            )
        check_whole("min_chars", self.min_chars)

    def shards(self) -> Sequence[RawShard]:
        """Return the raw shards in a fixed order; they read the columns of this corpus only."""
        return with_columns(self.rows.shards(), self.columns)

    @property
    def columns(self) -> list[str]:
        """The columns that are read; corpora that look at more add to them."""
        named = (self.id_column, self.group_column, self.year_column)
        return [*self.text_columns, *(name for name in named if name is not None)]

    def settings(self) -> dict[str, Any]:
        """Return everything that decides the documents, apart from the raw bytes."""
        return {
            "layout": type(self).__name__,
            "text_columns": list(self.text_columns),
            "optional_columns": list(self.optional_columns or []),
            "id_column": self.id_column,
            "group_column": self.group_column,
            "separator": self.separator,
            "min_chars": self.min_chars,
            "rows": self.rows.settings(),
            # Not there without: as in the records of stores that never had years.
            **({"year_column": self.year_column} if self.year_column is not None else {}),
        }

    def documents(self, shard: RawShard) -> Iterator[Document | Reject]:
        """Turn the rows of one raw shard into documents, in order."""
        for number, row in enumerate(shard.rows(), start=1):
            where = f"{shard.name} row {number}"
            yield row if isinstance(row, Reject) else self._document(row, where)

    def clean_id(self, value: str) -> str:
        """Bring an id to its stable form; corpora with several spellings override this."""
        return value

    def clean_text(self, value: str) -> str:
        """Fix the text of one column; corpora with known damage override this."""
        return value

    def _document(self, row: Row, where: str) -> Document | Reject:
        document_id = _name(row, self.id_column)
        if self.id_column is not None and document_id is None:
            return Reject(f"no id in column {self.id_column!r}", where, is_damaged=True)
        if document_id is not None:
            document_id = where = self.clean_id(document_id)
        group = _name(row, self.group_column)
        if self.group_column is not None and group is None:
            return Reject(f"no group in column {self.group_column!r}", where, is_damaged=True)
        text = self._text(row, where)
        if isinstance(text, Reject):
            return text
        if self.year_column is not None and self.year_column not in row:
            return Reject(f"no column {self.year_column!r}", where, is_damaged=True)
        facts = _facts(row, self.year_column)
        return Document(text, document_id or text_id(text), self.domain, group, facts)

    def _text(self, row: Row, where: str) -> str | Reject:
        parts = []
        for column in self.text_columns:
            part = column_text(row, column, where)
            if isinstance(part, Reject):
                return part
            part = self.clean_text(part)
            if part.strip():
                parts.append(part)
            elif column not in (self.optional_columns or []):
                return Reject(f"empty {column}", where)
        text = self.separator.join(parts).strip()
        if len(text) < self.min_chars:
            return Reject(f"shorter than {self.min_chars} characters", where)
        return text


def _name(row: Row, column: str | None) -> str | None:
    value = None if column is None else row.get(column)
    is_name = isinstance(value, str | int) and not isinstance(value, bool)
    return str(value).strip() or None if is_name else None


def _facts(row: Row, year_column: str | None) -> DocumentFacts | None:
    """Return the year of a row; None where no years are asked for."""
    if year_column is None:
        return None
    value = row[year_column]
    return DocumentFacts(None if value is None else year_of(str(value)))


def column_text(row: Row, column: str, where: str) -> str | Reject:
    """Return the text of a column, empty for null, or why there is none."""
    if column not in row:
        return Reject(f"no column {column!r}", where, is_damaged=True)
    value = row[column]
    if value is None:
        return ""
    if not isinstance(value, str):
        return Reject(f"column {column!r} is not text", where, is_damaged=True)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return Reject(f"column {column!r} is not valid Unicode", where, is_damaged=True)
    if "\0" in value:
        return Reject(f"column {column!r} holds a zero character", where, is_damaged=True)
    return value


# -------------------------------------------------------------------------------------------------
# C4: cleaned web pages, keyed by their URL.
# -------------------------------------------------------------------------------------------------


class C4(ColumnCorpus):
    """Web pages with columns text, url and timestamp; the text is kept as C4 cleaned it.

    Args:
        rows: Where the rows come from.
        licence: Terms of use, written into the manifest.
        id_column: Column of the URL; None names by the hash of the text.
        min_chars: Shorter texts are left out.
        domain: Name of the kind of text.

    Source: LeoYML/BioMamba@e61db22 drops C4 texts below 100 characters.
    """

    def __init__(
        self,
        rows: RowSource,
        licence: str,
        id_column: str | None = "url",
        min_chars: int = 100,
        domain: str = "web",
    ) -> None:
        super().__init__(
            rows=rows,
            domain=domain,
            licence=licence,
            text_columns=["text"],
            id_column=id_column,
            min_chars=min_chars,
        )


# -------------------------------------------------------------------------------------------------
# Wikipedia articles: title, blank line, text.
# -------------------------------------------------------------------------------------------------


class Wikipedia(ColumnCorpus):
    """Articles with columns id, url, title and text, keyed by the page id.

    Deviation: LeoYML/BioMamba@e61db22 trains on the text column alone; here the title is the first
    line, because the plain text often starts in mid-subject.

    Args:
        rows: Where the rows come from.
        licence: Terms of use, written into the manifest.
        min_chars: Shorter texts, title included, are left out.
        domain: Name of the kind of text.
    """

    def __init__(
        self,
        rows: RowSource,
        licence: str,
        min_chars: int = 100,
        domain: str = "wikipedia",
    ) -> None:
        super().__init__(
            rows=rows,
            domain=domain,
            licence=licence,
            text_columns=["title", "text"],
            id_column="id",
            min_chars=min_chars,
        )


# -------------------------------------------------------------------------------------------------
# WikiText: articles put together again from the row per line of the hub layout.
# -------------------------------------------------------------------------------------------------

_TITLE = re.compile(r" = (?!= )(.+)(?<! =) = \n?")


@dataclass(frozen=True)
class WikiText:
    """Articles of WikiText (raw), keyed by their title.

    A row is one line. An article starts at a level-1 heading ` = Title = ` between two blank rows;
    ` = = Section = = ` stays inside. The blank rows matter: the test split holds two lines of a
    formula that look like a heading. The tokenized punctuation (` @-@ `) is kept.

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


# -------------------------------------------------------------------------------------------------
# PubMed and MEDLINE abstracts: title, blank line, abstract.
# -------------------------------------------------------------------------------------------------

_PMID_PREFIX = re.compile(r"^pmid:\s*", re.IGNORECASE)


class PubMedAbstracts(ColumnCorpus):
    r"""Abstracts as `title + "\n\n" + abstract`; a row without an abstract is left out.

    Fits `cyrilzakka/pubmed-medline` (title, content) and JSON lines of (title, abstract).

    Args:
        rows: Where the rows come from.
        licence: Terms of use, written into the manifest.
        title_column: Column of the title; it may be empty.
        abstract_column: Column of the abstract.
        id_column: Column of the PMID, `123` or `PMID:123`; None names by the hash of the text.
        min_chars: Shorter texts are left out.
        domain: Name of the kind of text.
        year_column: Column of the year of publication, kept beside the tokens; None keeps none.

    Source: LeoYML/BioMamba@e61db22, title and content joined by a blank line, empty content
    dropped.
    """

    def __init__(
        self,
        rows: RowSource,
        licence: str,
        title_column: str = "title",
        abstract_column: str = "abstract",
        id_column: str | None = "pmid",
        min_chars: int = 1,
        domain: str = "pubmed",
        year_column: str | None = None,
    ) -> None:
        super().__init__(
            rows=rows,
            domain=domain,
            licence=licence,
            text_columns=[title_column, abstract_column],
            id_column=id_column,
            min_chars=min_chars,
            optional_columns=[title_column],
            year_column=year_column,
        )

    def clean_id(self, value: str) -> str:
        """Reduce `PMID:123` to `123`, so that one article has one key in every layout."""
        return _PMID_PREFIX.sub("", value)


# -------------------------------------------------------------------------------------------------
# PubMed as MedRAG cut it out of the XML: abstracts whose damaged markup is fixed.
# -------------------------------------------------------------------------------------------------

# Goes up when the same row would give another text.
_VERSION = 1
# MedRAG's reader drops every `>`: `10<sup>-5</sup>` is stored as `10<sup-5</sup`. Its titles keep
# theirs. A `<` of the article itself is still written as `&lt;`.
_TAG = re.compile(r"<(/?)(sup|sub|i|b|u)(>?)")
# Longest names first, because the text follows a name without a gap.
_EMPTY_NAMES = "maligngroup|malignmark|mprescripts|mglyph|mspace|none"
_FORMULA_NAMES = (
    "mmultiscripts|mlabeledtr|annotation|munderover|semantics|menclose|mfenced|mpadded|mphantom|"
    "msubsup|munder|mtable|mstyle|mtext|mover|mfrac|mroot|msqrt|math|mrow|msub|msup|mtd|mtr|"
    "mi|mn|mo|ms"
)
_ATTRIBUTES = r'(?:\s+[\w:.-]+="[^"<]*")*'
_FORMULA_TAG = re.compile(
    rf"</?mml:(?:{_EMPTY_NAMES}){_ATTRIBUTES}\s*/?"
    rf"|</?(?:DispFormula|mml:(?:{_FORMULA_NAMES})){_ATTRIBUTES}"
)
_ENTITY = re.compile(r"&(?:lt|gt|amp|quot|apos|#\d+|#[xX][0-9a-fA-F]+);")


class MedRag(PubMedAbstracts):
    r"""Rows of `MedRAG/pubmed`, as `title + "\n\n" + abstract`.

    Deviation: headings of structured abstracts, and every `>` that the XML wrote as itself, are
    lost in the source and stay so; `medline` reads the same articles whole.

    Args:
        rows: Where the rows come from.
        licence: Terms of use, written into the manifest.
        min_chars: Shorter texts are left out.
        domain: Name of the kind of text.
    """

    def __init__(
        self, rows: RowSource, licence: str, min_chars: int = 1, domain: str = "pubmed"
    ) -> None:
        super().__init__(
            rows=rows,
            licence=licence,
            abstract_column="content",
            id_column="PMID",
            min_chars=min_chars,
            domain=domain,
        )

    def settings(self) -> dict[str, Any]:
        """Return everything that decides the documents, apart from the raw bytes."""
        return super().settings() | {"mending_version": _VERSION}

    def clean_text(self, value: str) -> str:
        """Take the remains of tags out, resolve entities and join runs of spaces."""
        return mend_markup(value)


def mend_markup(text: str) -> str:
    """Return the text without the remains of tags, with entities resolved, once.

    What may be a tag or a comparison, as in `a<b`, is only taken out where its closing tag follows.
    """
    if "<" in text:
        text = _drop_pairs(_FORMULA_TAG.sub("", text))
    if "&" in text:
        text = _ENTITY.sub(lambda found: unescape(found[0]), text)
    return " ".join(text.split())


def _drop_pairs(text: str) -> str:
    opened: dict[str, list[tuple[int, int]]] = {}
    spans: list[tuple[int, int]] = []
    for tag in _TAG.finditer(text):
        waiting = opened.setdefault(tag[2], [])
        if not tag[1]:
            waiting.append(tag.span())
        elif waiting:
            spans += [waiting.pop(), tag.span()]
    edges = [0, *(edge for span in sorted(spans) for edge in span), len(text)]
    return "".join(text[edges[i] : edges[i + 1]] for i in range(0, len(edges), 2))


# -------------------------------------------------------------------------------------------------
# Clinical notes of MIMIC-IV-Note, grouped by patient.
# -------------------------------------------------------------------------------------------------

_NOTE_ID = re.compile(r"(\d+)-[A-Z]{2}-\d+")


class MimicNotes(ColumnCorpus):
    """Discharge summaries or radiology reports, named by `note_id`, one group per `subject_id`.

    The text is kept as it is, with the `___` that stands for what was taken out to protect the
    patient. No message and no reject holds any of it: the id of a row is only repeated where it has
    the form `subject-type-number`.

    Args:
        rows: The CSV file, or rows with the columns note_id, subject_id and text; others are
            ignored.
        licence: Terms of use, written into the manifest.
        min_chars: Shorter notes are left out.
        domain: Name of the kind of text.

    Source: LeoYML/BioMamba@e61db22 drops notes below 200 characters and splits by subject_id.
    """

    def __init__(
        self, rows: RowSource, licence: str, min_chars: int = 200, domain: str = "clinical"
    ) -> None:
        super().__init__(
            rows=rows,
            domain=domain,
            licence=licence,
            text_columns=["text"],
            id_column="note_id",
            group_column="subject_id",
            min_chars=min_chars,
        )

    def _document(self, row: Row, where: str) -> Document | Reject:
        # A lost quote shifts the columns: what is in note_id may then be text of the note.
        found = _NOTE_ID.fullmatch(str(row.get("note_id", "")).strip())
        if found is None:
            return Reject("malformed note_id", where, is_damaged=True)
        if found[1] != str(row.get("subject_id", "")).strip():
            return Reject("subject_id is not that of note_id", where, is_damaged=True)
        return super()._document(row, where)


# -------------------------------------------------------------------------------------------------
# Medical transcriptions of MTSamples, all or those of some specialties.
# -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MtSamples(ColumnCorpus):
    """Notes with the specialties under which each was published, in a column of lists.

    Attributes:
        specialties: A note of one of these is kept; None keeps all.
    """

    specialties: list[str] | None = None

    @property
    def columns(self) -> list[str]:
        """The columns that are read."""
        return [*super().columns, "specialties"]

    def settings(self) -> dict[str, Any]:
        """Return everything that decides the documents, apart from the raw bytes."""
        return super().settings() | {"specialties": self.specialties}

    def _document(self, row: Row, where: str) -> Document | Reject:
        found = row.get("specialties")
        if not isinstance(found, list):
            return Reject("specialties is not a list", where, is_damaged=True)
        is_wanted = self.specialties is None or {str(name).strip() for name in found} & set(
            self.specialties
        )
        return super()._document(row, where) if is_wanted else Reject("another specialty", where)
