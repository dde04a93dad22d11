"""Which findings a text affirms and which it negates."""

import pytest

from biomamba.metrics.clinical_text import statuses_of


@pytest.mark.parametrize(
    ("text", "statuses"),
    [
        ("He has fever.", {"fever": True}),
        ("No fever, chills, or nausea.", {"fever": False, "chills": False, "nausea": False}),
        ("Denies fever but has cough.", {"fever": False, "cough": True}),
        ("Denies fever. Has cough.", {"fever": False, "cough": True}),
        ("Fever: absent.", {"fever": False}),
        ("Pneumonia was ruled out; cough stays.", {"pneumonia": False, "cough": True}),
        ("Dyspnea.", {"shortness of breath": True}),
        ("Any fever?", {}),
        ("okay and any fever or chills", {}),
        ("have you had nausea", {}),
        ("Denies any fever.", {"fever": False}),
        ("i do n't hear any murmur", {"murmur": False}),
        ("I haven\u2019t had a rash", {"rash": False}),
        ("Mother had diabetes.", {}),
        ("Fever. Later no fever.", {}),
        ("Temperature 98.6 without fever", {"fever": False}),
        ("Nothing known, notable normal.", {}),
    ],
)
def test_rules(text: str, statuses: dict[str, bool]) -> None:
    assert statuses_of(text) == statuses
