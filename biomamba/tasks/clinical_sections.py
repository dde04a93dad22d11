"""The sections of clinical notes: where each heading stands and what follows it.

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
# And what other notes have; in MIMIC-IV-Note these words stand inside of sections.
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


def _spellings(names: Sequence[str]) -> str:
    """Return the alternatives of a pattern, longest first, for any white space between words."""
    longest_first = sorted(names, key=len, reverse=True)
    return "|".join(re.escape(name).replace(r"\ ", r"[ \t]+") for name in longest_first)


def _line_pattern(names: Sequence[str]) -> re.Pattern[str]:
    """Match a heading that begins a line and has it to itself or a colon behind it."""
    return re.compile(
        rf"^[ \t]*(?P<name>{_spellings(names)})[ \t]*(?::[ \t]*(?:\r?\n)?|\r?\n|\Z)",
        re.IGNORECASE | re.MULTILINE,
    )


_PATTERNS = {
    "mimic": _line_pattern(list(_MIMIC_NAMES)),
    "lines": _line_pattern(list(_NAME_OF)),
    # In capitals, at the beginning or behind a comma or full stop, before a colon or comma.
    "inline": re.compile(
        r"(?:\A|(?<=[,.\n])|(?<=[,.]\s)|(?<=[,.]\s\s))"
        rf"(?P<name>{_spellings([name.upper() for name in _NAME_OF])})"
        r"[ \t]*(?::|(?=,\s*\S))[ \t]*,?\s*"
    ),
}


@dataclass(frozen=True)
class Section:
    """One heading and what follows it up to the next one.

    Attributes:
        heading: Its common name in lower case; empty for what stands before the first heading.
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
        heading = _NAME_OF[" ".join(match["name"].lower().split())]
        title, start = match[0], match.end()
    if title or text:
        yield Section(heading, title, text[start:])


def headings_of(text: str) -> frozenset[str]:
    """Return the names of the headings that a text has, in lines or in capitals."""
    return frozenset(
        section.heading
        for style in ("lines", "inline")
        for section in ClinicalSections(style=style).read(text)
        if section.heading
    )
