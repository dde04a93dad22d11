"""The sections of clinical notes."""

import gzip
import json
import random
from pathlib import Path

import pytest

from biomamba.runtime.errors import ConfigError
from biomamba.tasks.clinical_sections import (
    STYLES,
    ClinicalSections,
    headings_of,
    without_references,
)

NOTE = """ \nName:  ___               Unit No:   ___
 \nAllergies: \nPenicillins
Chief Complaint:
dyspnea
Brief  Hospital Course:
# CHF: stable. Discharge Medications: not a heading here.
Plan:
stays
MEDICATIONS ON ADMISSION:
1. Lasix
DISCHARGE LABS
K 4.1
discharge medications:
Brief Hospital Course:

again
"""
PIECES = [
    "Brief Hospital Course:",
    "BRIEF HOSPITAL COURSE",
    "Plan:",
    "\n",
    "\r\n",
    " ",
    ",",
    ". ",
    "HOSPITAL COURSE:,",
    "text",
    "___",
    "Allergies: none",
    ":",
]


def shape(note: str, style: str = "mimic") -> list[tuple[str, str]]:
    return [(s.heading, s.body.strip()) for s in ClinicalSections(style=style).read(note)]


def test_headings_of_mimic_are_found_in_any_case_with_repeats_in_order() -> None:
    assert shape(NOTE) == [
        ("", ""),
        ("name", "___               Unit No:   ___"),
        ("allergies", "Penicillins"),
        ("chief complaint", "dyspnea"),
        (
            "brief hospital course",
            "# CHF: stable. Discharge Medications: not a heading here.\nPlan:\nstays",
        ),
        ("medications on admission", "1. Lasix"),
        ("discharge labs", "K 4.1"),
        ("discharge medications", ""),
        ("brief hospital course", "again"),
    ]


def test_words_that_stand_inside_of_sections_of_mimic_are_headings_elsewhere() -> None:
    assert ("plan", "stays") in shape(NOTE, "lines")
    assert ("plan", "stays") not in shape(NOTE, "mimic")


@pytest.mark.parametrize(
    "heading",
    [
        "Brief Hospital Course",
        "History of Present Illness",
        "Past Medical History",
        "Discharge Medications",
        "Discharge Diagnosis",
        "Discharge Condition",
        "Discharge Instructions",
        "Followup Instructions",
        "Pertinent Results",
        "Medications on Admission",
        "Physical Exam",
        "Social History",
        "Family History",
        "Allergies",
        "Attending",
        "Service",
        "Chief Complaint",
        "Major Surgical or Invasive Procedure",
        "Discharge Disposition",
    ],
)
def test_the_headings_of_mimic_are_known(heading: str) -> None:
    for written in (f"{heading}:\nx", f"{heading.upper()}: x", f"{heading.lower()}\nx"):
        assert shape(written) == [(heading.lower(), "x")]
    assert shape(f"the {heading}: x") == [("", f"the {heading}: x")]


@pytest.mark.parametrize(
    ("heading", "name"),
    [
        ("DISCHARGE EXAM", "discharge physical exam"),
        ("Discharge Physical Exam", "discharge physical exam"),
        ("Vitals on discharge", "discharge physical exam"),
        ("LABS ON DISCHARGE", "discharge labs"),
        ("Discharge Labs", "discharge labs"),
    ],
)
def test_what_was_found_at_the_discharge_is_apart(heading: str, name: str) -> None:
    note = f"Pertinent Results:\nK 3.1\n{heading}:\nK 4.1\nBrief Hospital Course:\nx"

    assert shape(note)[1] == (name, "K 4.1")


def test_headings_without_line_breaks_are_in_capitals() -> None:
    note = "FINAL DIAGNOSES,1.  Gout. ,HOSPITAL COURSE: , Went well.,PLAN:, Rest, no PLAN here."

    assert shape(note, "inline") == [
        ("discharge diagnosis", "1.  Gout. ,"),
        ("brief hospital course", "Went well.,"),
        ("plan", "Rest, no PLAN here."),
    ]


@pytest.mark.parametrize("style", STYLES)
def test_the_sections_in_order_are_the_whole_text(style: str) -> None:
    draw = random.Random(0)
    reader = ClinicalSections(style=style)
    for _ in range(300):
        text = "".join(draw.choices(PIECES, k=draw.randrange(12)))
        assert "".join(section.text for section in reader.read(text)) == text


@pytest.mark.parametrize("style", STYLES)
def test_names_found_are_names_known(style: str) -> None:
    reader = ClinicalSections(style=style)

    assert {section.heading for section in reader.read(NOTE) if section.heading} <= reader.known


def test_a_style_that_is_not_known_is_refused() -> None:
    with pytest.raises(ConfigError, match="allowed: mimic, lines, inline"):
        ClinicalSections(style="html")


def test_headings_of_a_text_are_found_in_either_style() -> None:
    assert headings_of("PLAN:, rest") == headings_of("Plan:\nrest") == {"plan"}
    assert headings_of("nothing") == frozenset()


def test_sections_of_real_notes_are_the_whole_text(real_data: Path) -> None:
    path = real_data / "mtsamples" / "mtsamples_unique.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"no {path}")
    reader = ClinicalSections(style="inline")
    with gzip.open(path) as file:
        texts = [json.loads(line)["text"] for line in file]

    found = [reader.read(text) for text in texts]

    assert ["".join(s.text for s in sections) for sections in found] == texts
    assert sum(len(sections) > 3 for sections in found) > len(found) / 2


COURSE = "He got \u03b1-blockers and went home."


@pytest.mark.parametrize("style", ["mimic", "lines"])
@pytest.mark.parametrize(
    "heading",
    [
        "Brief\u00a0Hospital Course: ",
        "Brief\u2009Hospital\u202fCourse:\n",
        "Brief\tHospital  Course :",
        "Brief\u200b Hospital Course:",
        "Brief Hospital\nCourse: ",
        "\u00a0brief hospital course:",
        "Brief Hospital Course - ",
        "Brief Hospital Course- ",
        "BRIEF HOSPITAL COURSE \u2013 ",
        "Brief Hospital Course\u2014",
        "Brief Hospital Course:- ",
        "Brief Hospital Course\uff1a",
        "**Brief Hospital Course:** ",
        "Brief Hospital Course\n",
        "Brief Hospital Course.\n",
        "see Brief Hospital Course: ",
        "Labs were fine, please see also the Brief Hospital Course - ",
        "Labs were fine. Brief Hospital Course: ",
    ],
)
def test_a_heading_is_found_whatever_its_white_space_and_punctuation(
    heading: str, style: str
) -> None:
    note = f"Pertinent Results:\nNa 140\n{heading}{COURSE}\nDischarge Condition:\nfine"

    sections = ClinicalSections(style=style).read(note)

    assert [(s.heading, s.body.strip()) for s in sections[-2:]] == [
        ("brief hospital course", COURSE),
        ("discharge condition", "fine"),
    ]
    assert "".join(section.text for section in sections) == note


@pytest.mark.parametrize(
    "line", ["Discharge-day labs", "His hospital course: none", "plan-of-care", "Follow up in May"]
)
def test_words_that_only_begin_like_a_heading_are_none(line: str) -> None:
    assert shape(f"Pertinent Results:\n{line}") == [("pertinent results", line)]


def test_references_to_sections_of_the_discharge_are_taken_out() -> None:
    text = "Na 140 (please see hospital course for details). Refer to Discharge Medications. K 4."

    assert without_references(text) == "Na 140 .  K 4."
    assert without_references("see the ward; course was mild") == "see the ward; course was mild"
