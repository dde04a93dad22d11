"""Sections as the published code cuts them."""

from biomamba.tasks.clinical_sections import ClinicalSections, ReleaseSections


def shape(note: str) -> dict[str, str]:
    return {each.heading: each.body for each in ReleaseSections().read(note)}


def test_a_brief_hospital_course_stays_in_the_section_before_it() -> None:
    note = "Pertinent Results:\nK 4.1\n\nBrief Hospital Course:\nWent well.\n"

    assert shape(note) == {"pertinent results": "K 4.1\n\nBrief Hospital Course:\nWent well."}
    assert [s.heading for s in ClinicalSections().read(note)][-1] == "brief hospital course"


def test_of_headings_that_come_twice_the_last_is_kept() -> None:
    note = "Allergies:\nnone\nHospital Course:\nx\nALLERGIES: iodine"

    assert shape(note) == {"allergies": "iodine", "hospital course": "x"}


def test_a_heading_needs_no_colon_and_what_follows_is_its_body() -> None:
    assert shape("Medications on Admission:\n1. x") == {"medications": "on Admission:\n1. x"}
    assert shape("Followup Instructions:\n___") == {"followup": "Instructions:\n___"}


def test_a_heading_behind_an_empty_section_is_not_seen() -> None:
    assert shape("x\nDischarge Diagnosis:\nDischarge Condition:\ngood") == {
        "preamble": "x",
        "discharge diagnosis": "Discharge Condition:\ngood",
    }


def test_a_note_without_headings_has_no_sections() -> None:
    assert shape("A telephone note.") == {}


def test_titles_are_capitals_above_the_text() -> None:
    (section,) = ReleaseSections().read("Allergies: none")

    assert section.text == "ALLERGIES:\nnone"
    assert section.heading in ReleaseSections().known
