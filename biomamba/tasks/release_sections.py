"""Sections as the published code cuts them, to repeat its protocol and to count what it leaks.

Source: LeoYML/BioMamba@e61db22, ft_biomamba/mimic_data.py. It does not know "Brief Hospital
Course", so that text stays in the section before it, often "Pertinent Results"; of headings that
come twice only the last is kept; a heading behind an empty section is not seen; a heading needs no
colon, so a line "Medications on Admission:" begins a section "Medications".
"""

import re
from dataclasses import dataclass

from biomamba.tasks.clinical_sections import Section

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
