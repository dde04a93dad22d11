"""Documents by year of publication, and by MeSH branch or descriptor."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from biomamba.data.document_facts import DocumentFacts, MeshTerm
from biomamba.runtime.errors import ConfigError, DataError

Known = Sequence[DocumentFacts | None]  # of the documents of a source, in their order
Groups = Mapping[str, Sequence[int]]  # places of documents by the name of their group
_TREE_NUMBER = re.compile(r"[A-Z]\d\d(?:\.\d+)*")


@dataclass(frozen=True)
class MeshTree:
    """The places of descriptors in the MeSH trees.

    Attributes:
        numbers: Tree numbers by the name of a descriptor, in lower case; most have several.
        names: Name of a descriptor by tree number.
    """

    numbers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "MeshTree":
        """Read NLM's file of lines `Neoplasms;C04` (mtrees2026.bin).

        Raises:
            ConfigError: There is no such file.
            DataError: A line is none of these.
        """
        if not path.is_file():
            raise ConfigError(
                f"report.metadata.mesh_tree names {path}, which is no file; it is the file of MeSH "
                "trees, mtrees<year>.bin at https://nlmpubs.nlm.nih.gov/projects/mesh/"
            )
        numbers: dict[str, list[str]] = {}
        names = {}
        # Some years' files are not UTF-8; a name with a wrong letter is only not found.
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        for count, line in enumerate(lines, start=1):
            name, _, number = line.strip().rpartition(";")
            if not line.strip():
                continue
            if not name or not _TREE_NUMBER.fullmatch(number):
                raise DataError(
                    f"{path}, line {count}: expected `name;tree number` as in `Neoplasms;C04`, "
                    f"found {line[:60]!r}"
                )
            numbers.setdefault(name.lower(), []).append(number)
            names[number] = name
        if not names:
            raise DataError(f"{path} holds no line `name;tree number`; fetch it again")
        return cls(numbers, names)

    def branches(self, term: MeshTerm, depth: int) -> set[str]:
        """Return the branches of a descriptor: `C04 Neoplasms`, at depth 2 `C04.588 ...`."""
        numbers = (
            ".".join(number.split(".")[:depth])
            for number in self.numbers.get(term.name.lower(), ())
        )
        return {f"{number} {self.names.get(number, '')}".strip() for number in numbers}


def by_year(known: Known) -> Groups:
    """Return documents by their year, in the order of the years."""
    groups: dict[str, list[int]] = {}
    for place, facts in enumerate(known):
        if facts is not None and facts.year is not None:
            groups.setdefault(str(facts.year), []).append(place)
    return {year: groups[year] for year in sorted(groups, key=int)}


def by_subject(known: Known, tree: MeshTree | None, depth: int) -> Groups:
    """Return documents by branch, or without trees by descriptor, the largest group first.

    A document counts once in each branch that one of its descriptors lies in.
    """
    groups: dict[str, list[int]] = {}
    for place, facts in enumerate(known):
        for name in _subjects(() if facts is None else facts.mesh, tree, depth):
            groups.setdefault(name, []).append(place)
    return {name: groups[name] for name in sorted(groups, key=lambda n: (-len(groups[n]), n))}


def large_groups(groups: Groups, min_documents: int) -> Groups:
    """Return the groups of at least so many documents."""
    return {name: places for name, places in groups.items() if len(places) >= min_documents}


def unknown_descriptors(known: Known, tree: MeshTree) -> tuple[int, int]:
    """Return how many descriptors of the documents the trees do not have, and of how many."""
    terms = Counter(term.name.lower() for facts in known if facts for term in facts.mesh)
    return sum(name not in tree.numbers for name in terms), len(terms)


def _subjects(mesh: Sequence[MeshTerm], tree: MeshTree | None, depth: int) -> Iterable[str]:
    if tree is None:
        return sorted({term.name for term in mesh})
    return sorted({branch for term in mesh for branch in tree.branches(term, depth)})
