"""The sections of clinical notes: where each heading is and what follows it.

Texts are cut, never changed: the sections in their order give back the whole text, and a heading
that comes twice gives two sections.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from biomamba.runtime.errors import ConfigError

# The first name of a line names the section; the others are other ways to write it.
# What discharge summaries of MIMIC-IV-Note are made of. Exams and results of the day of discharge
# are sections of their own, so that a prompt can do without them.
_OF_MIMIC = """
name
unit no
admission date|date of admission
discharge date|date of discharge
date of birth
sex
service
allergies
attending
chief complaint
major surgical or invasive procedure
history of present illness
past medical history
past surgical history
social history
family history
review of systems
medications on admission|admission medications
physical exam|physical examination|admission physical exam|admission physical examination
pertinent results
discharge physical exam|discharge exam|discharge physical examination|discharge physical\
|physical exam on discharge|physical exam at discharge|physical examination on discharge\
|exam on discharge|exam at discharge|discharge vitals|discharge vital signs|vitals on discharge\
|discharge pe|pe on discharge
discharge labs|labs on discharge|labs at discharge|discharge laboratory data|discharge results\
|labs prior to discharge|labs day of discharge
brief hospital course|hospital course
discharge medications|discharge medication
discharge disposition
facility
discharge diagnosis|discharge diagnoses
discharge condition
discharge instructions
followup instructions|follow-up instructions|follow up instructions
"""
# And what other notes have; in MIMIC-IV-Note these words are inside of sections.
_OF_OTHERS = """
allergies|allergy
attending|attending physician
chief complaint|chief complaints|cc|reason for visit|reason for consultation
reason for admission
procedures|procedure|procedure performed|procedures performed|operation and procedure\
|operation performed|operations performed|principal procedure|procedures during hospitalization\
|procedures during this hospitalization|operations|surgical procedures
history of present illness|hpi|history of the present illness|present illness|brief history\
|history|brief history and physical|history and physical
past medical history|pmh|medical history|past history
past surgical history|surgical history
review of systems|ros
medications|current medications|home medications|meds
physical exam|exam|physical examination on admission
vital signs|vitals|vitals reviewed
mental status|mental status examination
pertinent results|results|laboratory data|laboratory studies|laboratory findings|labs|lab results\
|laboratory results|significant lab and x-ray|diagnostic studies|diagnostic data|x-rays
subjective
objective
preoperative diagnosis|preoperative diagnoses
postoperative diagnosis|postoperative diagnoses
anesthesia
estimated blood loss|blood loss
description of procedure|procedure in detail|description of operation
specimens|specimen
imaging
findings
indications|indication|indications for procedure|reason for exam
comparison
technique
conclusion
recommendations|recommendation
admission diagnosis|admission diagnoses|admitting diagnosis|admitting diagnoses\
|diagnosis at admission
consultations|consults|consultants
brief hospital course|course in the hospital|hospital course and treatment|clinical course|course\
|brief hospital course summary|history and hospital course|hospital course by problem\
|hospital course summary|course in hospital
complications
assessment and plan|assessment & plan|assessment/plan|a&p
assessment
impression
plan
discharge medications|medications on discharge|medications at discharge
discharge diagnosis|final diagnosis|final diagnoses|diagnosis|diagnoses|principal diagnosis\
|primary diagnosis
secondary diagnosis|secondary diagnoses
discharge condition|condition on discharge|condition upon discharge|condition at discharge\
|condition|discharge status
discharge disposition|disposition
discharge weight
prognosis
activity|discharge activity
diet|discharge diet
discharge instructions|instructions|discharge plan
followup instructions|followup|follow-up|follow up|discharge followup|discharge follow-up\
|follow-up appointment|follow-up appointments|followup plans
"""


def _names(table: str) -> dict[str, str]:
    """Return the common name of each spelling."""
    lines = [line.split("|") for line in table.replace("\\\n", "").strip().splitlines()]
    return {spelling: names[0] for names in lines for spelling in names}


_MIMIC_NAMES = _names(_OF_MIMIC)
_NAME_OF = _names(_OF_OTHERS) | _MIMIC_NAMES
STYLES = ("mimic", "lines", "inline")
# White space within a line, also what has no width: no-break, thin and zero-width spaces, tabs.
_GAP = r"(?:[^\S\r\n\x0b\x0c\x85\u2028\u2029]|[\u00ad\u200b-\u200d\u2060\ufeff])"
_BREAK = r"(?:\r?\n|[\r\x0b\x0c\x85\u2028\u2029])"
_LINE_START = r"(?:^|(?<=[\r\x0b\x0c\x85\u2028\u2029]))"
_HYPHEN = r"[-\u2010-\u2015\u2212]"
# After a heading: a colon, or a dash that starts no word.
_MARK = rf"(?:[:\uff1a]+{_GAP}*{_HYPHEN}*(?=\s|\Z|[^-])|{_HYPHEN}+(?=\s|\Z)|[\u2012-\u2015]+)"
_BOLD = r"[*=]{0,3}"
# Sections that are written at the discharge. Their headings count inside of a line too, after
# words as "see": what follows must not be taken for the section before.
_AT_DISCHARGE = (
    "brief hospital course",
    "discharge medications",
    "discharge disposition",
    "discharge diagnosis",
    "discharge condition",
    "discharge instructions",
    "followup instructions",
)
_REFERENCE = (
    rf"\b(?:see|refer{_GAP}+to|as{_GAP}+per|per|cf\.?|as{_GAP}+in|described{_GAP}+in|noted{_GAP}+in)"
    rf"{_GAP}+(?:also{_GAP}+|the{_GAP}+|above{_GAP}+|below{_GAP}+|section{_GAP}+|under{_GAP}+)*"
    r"[\"'\u201c]?"
)


def _spellings(names: Sequence[str]) -> str:
    """Return the alternatives of a pattern, longest first, for any white space between words.

    One line break may be among it: a heading can be wrapped.
    """
    between = rf"(?:{_GAP}+(?:{_BREAK}{_GAP}*)?|{_BREAK}{_GAP}*)"
    longest_first = sorted(names, key=len, reverse=True)
    words = (re.escape(name).replace(r"\-", _HYPHEN) for name in longest_first)
    return "|".join(word.replace(r"\ ", between) for word in words)


def _line_pattern(names: Sequence[str]) -> re.Pattern[str]:
    """Match a heading that starts a line and has it to itself or a mark after it.

    Those of the discharge also where a line refers to them, and the brief hospital course after
    the end of a sentence if it is written with capitals.
    """
    end = rf"{_GAP}*{_BOLD}{_GAP}*(?:{_MARK}{_BOLD}{_GAP}*{_BREAK}?|\.?{_GAP}*(?:{_BREAK}|\Z))"
    late = [name for name in names if _NAME_OF[name] in _AT_DISCHARGE and " " in name]
    written = _spellings(["Brief Hospital Course", "BRIEF HOSPITAL COURSE"])
    mark = rf"{_GAP}*{_MARK}{_GAP}*{_BREAK}?"
    return re.compile(
        rf"{_LINE_START}{_GAP}*{_BOLD}(?P<name>{_spellings(names)}){end}"
        rf"|{_REFERENCE}(?P<reference>{_spellings(late)})[\"'\u201d]?{mark}"
        rf"|(?<=[.;!?)\]]){_GAP}+(?-i:(?P<late>{written})){mark}",
        re.IGNORECASE | re.MULTILINE,
    )


_PATTERNS = {
    "mimic": _line_pattern(list(_MIMIC_NAMES)),
    "lines": _line_pattern(list(_NAME_OF)),
    # In capitals, at the beginning or after a comma or full stop, before a mark or comma.
    "inline": re.compile(
        r"(?:\A|(?<=[,.\n])|(?<=[,.]\s)|(?<=[,.]\s\s))"
        rf"(?P<name>{_spellings([name.upper() for name in _NAME_OF])})"
        rf"{_GAP}*(?:{_MARK}|(?=,\s*\S)){_GAP}*,?\s*"
    ),
}
_SENTENCE_ABOUT = re.compile(
    rf"[(\[]?(?:\bplease{_GAP}+)?{_REFERENCE}"
    rf"(?:{_spellings([n for n in _NAME_OF if _NAME_OF[n] in _AT_DISCHARGE and ' ' in n])})"
    r"\b[^.;\n)\]]*[.;)\]]?",
    re.IGNORECASE,
)


def without_references(text: str) -> str:
    """Return a text without what refers to sections of the discharge, as "see hospital course"."""
    return _SENTENCE_ABOUT.sub("", text)


@dataclass(frozen=True)
class Section:
    """One heading and what follows it up to the next one.

    Attributes:
        heading: Its common name in lower case; empty for what is before the first heading.
        title: The heading as it is written, with its colon and the white space around it.
        body: What follows; may be empty.
    """

    heading: str
    title: str
    body: str

    @property
    def text(self) -> str:
        """Title and body as they are written."""
        return self.title + self.body


@dataclass(frozen=True, kw_only=True)
class ClinicalSections:
    """Finds the headings of discharge summaries and other notes, in any case.

    Attributes:
        style: `mimic`: headings of MIMIC-IV-Note, each at the beginning of a line. `lines`: those
            of other notes too. `inline`: those where line breaks were lost and headings are in
            capitals, as in MTSamples.
    """

    style: str = "mimic"

    def __post_init__(self) -> None:
        if self.style not in STYLES:
            raise ConfigError(f"style of sections is {self.style!r}; allowed: {', '.join(STYLES)}")

    @property
    def known(self) -> frozenset[str]:
        """Names of the sections that can be found."""
        return frozenset((_MIMIC_NAMES if self.style == "mimic" else _NAME_OF).values())

    def read(self, text: str) -> list[Section]:
        """Return the sections of a text in their order; their texts joined are the text."""
        return list(_cut(text, _PATTERNS[self.style]))


def _cut(text: str, pattern: re.Pattern[str]) -> Iterator[Section]:
    heading, title, start = "", "", 0
    for match in pattern.finditer(text):
        if title or match.start():
            yield Section(heading, title, text[start : match.start()])
        name = next(filter(None, match.groupdict().values()))
        heading = _NAME_OF[_plain(name)]
        title, start = match[0], match.end()
    if title or text:
        yield Section(heading, title, text[start:])


def _plain(name: str) -> str:
    """Return a heading as the tables have it: one space between words, one kind of hyphen."""
    spaced = re.sub(rf"(?:{_GAP}|{_BREAK})+", " ", name.lower())
    return re.sub(_HYPHEN, "-", spaced)


def headings_of(text: str) -> frozenset[str]:
    """Return the names of the headings that a text has, in lines or in capitals."""
    return frozenset(
        section.heading
        for style in ("lines", "inline")
        for section in ClinicalSections(style=style).read(text)
        if section.heading
    )


# -------------------------------------------------------------------------------------------------
# Sections as the published code cuts them, to repeat its protocol and to count what it leaks.
#
# Source: LeoYML/BioMamba@e61db22, ft_biomamba/mimic_data.py. It does not know "Brief Hospital
# Course", so that text stays in the section before it, often "Pertinent Results"; of headings that
# come twice only the last is kept; a heading after an empty section is not seen; a heading needs no
# colon, so a line "Medications on Admission:" starts a section "Medications".
# -------------------------------------------------------------------------------------------------

PREAMBLE = "preamble"
_NAMES = (
    "chief complaint",
    "history of illness",
    "history of present illness",
    "history of the present illness",
    "medical history",
    "past medical history",
    *(f"{of}medication{s}" for of in ("", "admission ", "home ") for s in ("", "s")),
    "allergies",
    "social history",
    "family history",
    "physical exam",
    "physical examination",
    *(
        f"{of}{kind}{what}"
        for of in ("", "pertinent ")
        for kind in ("", "laboratory ", "lab ")
        for what in ("results", "data", "findings")
    ),
    "course",
    "hospital course",
    "assessment and plan",
    "assessment & plan",
    "discharge diagnosis",
    "discharge condition",
    "discharge status",
    "discharge instructions",
    "discharge medication",
    "discharge medications",
    "follow up",
    "follow-up",
    "followup",
    "impression",
    "finding",
    "technique",
    "indication",
    "comparison",
    "conclusion",
)
_ALTERNATIVES = "|".join(re.escape(name) for name in sorted(_NAMES, key=len, reverse=True))
_HEADING = re.compile(rf"(?:\A|\n)\s*(?P<name>{_ALTERNATIVES})\s*[:\-]?\s*\n?", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class ReleaseSections:
    """Cuts a note as the published code does; what it loses is lost."""

    @property
    def known(self) -> frozenset[str]:
        """Names of the sections that can be found."""
        return frozenset({*_NAMES, PREAMBLE})

    def read(self, text: str) -> list[Section]:
        """Return the sections that are not empty, in the order of their first headings."""
        found = list(_HEADING.finditer(text))
        bodies: dict[str, str] = {}
        if found and (preamble := text[: found[0].start()].strip()):
            bodies[PREAMBLE] = preamble
        ends = [match.start() for match in found[1:]] + [len(text)]
        for match, end in zip(found, ends, strict=True) if found else ():
            if body := text[match.end() : end].strip():
                bodies[match["name"].lower()] = body
        return [Section(name, f"{name.upper()}:\n", body) for name, body in bodies.items()]
