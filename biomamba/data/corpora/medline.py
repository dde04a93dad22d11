"""PubMed from its own XML: title, blank line, abstract, of the records that still stand."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from biomamba.data.citation import Citation, read_citation
from biomamba.data.document import Document, Reject
from biomamba.data.document_facts import DocumentFacts
from biomamba.data.pubmed_xml import citation_of, elements, is_record, read_key
from biomamba.data.raw_files import natural_order
from biomamba.data.revisions import Fate, Fates, decide, read_all_keys
from biomamba.data.rows import RawShard, Row
from biomamba.data.sealed import sha256_of
from biomamba.data.xml_files import FileSource
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.runtime.numbers import check_whole

_YEAR = re.compile(r"(?:pubmed|medline)(\d\d)n\d+", re.IGNORECASE)
# The second name was used until 2024.
_RETRACTION_NOTICES = {"Retraction Notice", "Retraction of Publication"}
_FACTS = ["year", "mesh"]


@dataclass(frozen=True)
class MedlineCorpus:
    r"""Articles as `title + "\n\n" + abstract`, one per PMID, named by the PMID.

    The files count as published in the order of their names. What a later file revises or deletes
    is left out before the rules below, and each row left out is counted by reason.

    Attributes:
        source: The baseline and update files.
        licence: Terms of use, written into the manifest.
        domain: Name of the kind of text.
        require_abstract: Leave out records without an abstract; False keeps their titles.
        keep_labels: Write the headings of structured abstracts, as in `METHODS: We ...`.
        drop_retracted: Leave out retracted articles and the notices of retraction.
        languages: Keep articles in one of these languages, as ISO 639-2 codes (`eng`), whatever
            the language of the abstract; None keeps all.
        min_year: Leave out articles of earlier or unknown years; None keeps all.
        max_year: Leave out articles of later or unknown years; None keeps all.
        one_baseline: Refuse files of several years, because each year's baseline holds all of
            PubMed anew and what it left out is gone.
        keep_facts: Keep year and MeSH descriptors of each document beside its tokens; False
            continues stores that were prepared without them.
        num_workers: Processes of the pass that finds what stands; changes no document.
        cache_dir: Folder that keeps what this pass found in each file, so that the next run does
            not parse unchanged files again; None keeps nothing. Changes no document.
    """

    source: FileSource
    licence: str
    domain: str = "pubmed"
    require_abstract: bool = True
    keep_labels: bool = True
    drop_retracted: bool = True
    languages: list[str] | None = None
    min_year: int | None = None
    max_year: int | None = None
    one_baseline: bool = True
    keep_facts: bool = True
    num_workers: int = 1
    cache_dir: str | None = None

    def __post_init__(self) -> None:
        check_whole("num_workers", self.num_workers)
        if self.languages is not None and not self.languages:
            raise ConfigError("languages is empty; name at least one, or null for all")
        if self._year_reason(self.min_year) == "after max_year":
            raise ConfigError(f"min_year {self.min_year} is after max_year {self.max_year}")

    def shards(self) -> Sequence[RawShard]:
        """Return one shard per file, after a first pass over all files.

        Raises:
            DataError: If there are no files, two share a name, they are of several years, or one is
                damaged or not PubMed.
        """
        paths = sorted(self.source.files(), key=natural_order)
        if not paths:
            raise DataError(f"{self.source} has no PubMed file")
        doubles = [name for name, count in Counter(p.name for p in paths).items() if count > 1]
        if doubles:
            raise DataError(f"PubMed files share a name: {', '.join(doubles)}; rename one of each")
        if self.one_baseline:
            _check_years(paths)
        cache = None if self.cache_dir is None else Path(self.cache_dir)
        fates = decide(read_all_keys(paths, self.num_workers, cache))
        return [MedlineShard(path, part) for path, part in zip(paths, fates, strict=True)]

    def settings(self) -> dict[str, Any]:
        """Return everything that decides the documents, apart from the raw bytes."""
        return {
            "layout": type(self).__name__,
            "require_abstract": self.require_abstract,
            "keep_labels": self.keep_labels,
            "drop_retracted": self.drop_retracted,
            "languages": None if self.languages is None else sorted(self.languages),
            "min_year": self.min_year,
            "max_year": self.max_year,
            "source": self.source.settings(),
            # Not there without facts: as in the records of stores that never had them.
            **({"facts": _FACTS} if self.keep_facts else {}),
        }

    def documents(self, shard: RawShard) -> Iterator[Document | Reject]:
        """Turn the records of one file into documents, in order."""
        for row in shard.rows():
            if isinstance(row, Reject):
                yield row
            else:
                reason = self._reason(row["citation"])
                yield self._document(**row) if reason is None else Reject(reason, row["pmid"])

    def _reason(self, citation: Citation) -> str | None:
        if self.drop_retracted and citation.is_retracted:
            return "retracted"
        if self.drop_retracted and _RETRACTION_NOTICES & set(citation.publication_types):
            return "retraction notice"
        if self.languages is not None and not set(self.languages) & set(citation.languages):
            return "other language"
        return self._year_reason(citation.year)

    def _year_reason(self, year: int | None) -> str | None:
        if self.min_year is None and self.max_year is None:
            return None
        if year is None:
            return "no year"
        if self.min_year is not None and year < self.min_year:
            return "before min_year"
        if self.max_year is not None and year > self.max_year:
            return "after max_year"
        return None

    def _document(self, pmid: str, citation: Citation) -> Document | Reject:
        abstract = citation.abstract(keep_labels=self.keep_labels)
        if not abstract and self.require_abstract:
            return Reject("no abstract", pmid)
        text = "\n\n".join(part for part in (citation.title, abstract) if part)
        if not text:
            return Reject("no text", pmid)
        facts = DocumentFacts(citation.year, citation.mesh) if self.keep_facts else None
        return Document(text, pmid, self.domain, facts=facts)


@dataclass(frozen=True, eq=False)
class MedlineShard:
    """One PubMed file and the fate of each of its records."""

    path: Path
    fates: Fates

    @property
    def name(self) -> str:
        """The file name."""
        return self.path.name

    def fingerprint(self) -> str:
        """Hash the bytes of the file and the fates, which other files decide."""
        return f"sha256:{sha256_of(self.path)} fates:{sha256(self.fates.tobytes()).hexdigest()}"

    def rows(self) -> Iterator[Row | Reject]:
        """Iterate over the records as `{"pmid": str, "citation": Citation}`.

        Raises:
            DataError: If the file is damaged or no longer what the first pass read.
        """
        number = 0
        for element in elements(self.path):
            if not is_record(element, self.path):
                continue
            fate = Fate(self.fates[number]) if number < len(self.fates) else None
            key, citation = read_key(element), citation_of(element)
            number += 1
            if fate is None or (key is None) != (fate == Fate.NO_PMID):
                raise self._changed()
            if key is None or citation is None:
                yield Reject(Fate.NO_PMID.reason, f"{self.name} record {number}", is_damaged=True)
            elif fate != Fate.KEPT:
                yield Reject(fate.reason, str(key[0]))
            elif element.tag == "PubmedBookArticle":
                yield Reject("book", str(key[0]))
            else:
                yield {"pmid": str(key[0]), "citation": read_citation(citation)}
        if number != len(self.fates):
            raise self._changed()

    def _changed(self) -> DataError:
        return DataError(
            f"{self.path} has changed since the first pass over it; wait until nobody writes to it "
            "and run again"
        )


def _check_years(paths: Sequence[Path]) -> None:
    years = {found[1]: path for path in paths if (found := _YEAR.match(path.name))}
    if len(years) > 1:
        examples = ", ".join(path.name for _, path in sorted(years.items()))
        raise DataError(
            f"PubMed files of several years: {examples}; each baseline holds all of PubMed anew, "
            "keep the files of one year, or set one_baseline=false"
        )
