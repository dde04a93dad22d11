"""How many prompts hold what is to be written."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import pytest

from biomamba.evaluation.leakage import (
    LeakageSettings,
    audit_leakage,
    headings_in,
    leakage_record,
    split_leakage,
)
from biomamba.runtime.errors import ConfigError
from biomamba.tasks.clinical_notes import AuditedItem, WritingTask
from biomamba.tasks.prompt import Item, Items, Prompt

PROMPT = Prompt(name="p", template="{context}\nAnswer:", shrink={"context": "middle"})
SETTINGS = LeakageSettings(run_words=6, min_words=3)
COURSE = "he was given five litres of fluid and then went home"


@dataclass(frozen=True, kw_only=True)
class Notes(WritingTask):
    """Items per split."""

    given: Mapping[str, Sequence[Item]]

    def items(self, split: str) -> Items:
        return Items(self.given[split])

    def held_out(self) -> Items:
        return Items(self.given["test"])

    @property
    def files(self) -> Mapping[str, str]:
        return {"a.csv": "0" * 64}


def item(name: str, context: str, target: str = COURSE) -> Item:
    return Item(id=name, parts={"context": context, "unused": target}, target=target)


def task(**given: Sequence[Item]) -> Notes:
    return Notes(
        name="notes",
        protocol="p",
        prompt=PROMPT,
        access="restricted",
        max_new_tokens=9,
        given=given,
    )


def counts(context: str, text: str) -> dict[str, int]:
    cases = [AuditedItem(item("a", context), {"course": text})]
    found = split_leakage(task(), cases, SETTINGS)
    assert found.num_items == 1
    assert found.num_leaking == (found.texts["course"].num_with_runs > 0)
    return asdict(found.texts["course"])


def test_a_text_in_the_prompt_leaks_whatever_its_spacing_and_case() -> None:
    found = counts(f"Results:\n{COURSE.upper().replace(' ', chr(10))}. K 4.1", COURSE)

    assert found == {
        "num_texts": 1,
        "num_short": 0,
        "num_whole": 1,
        "num_with_runs": 1,
        "num_words": 11,
        "num_leaked_words": 11,
    }


def test_a_long_run_leaks_its_words_and_a_shorter_one_does_not() -> None:
    # The first six words are one run of six; five are none.
    six, five = " ".join(COURSE.split()[:6]), " ".join(COURSE.split()[:5])

    assert counts(six, COURSE) | {"num_words": 0} == {
        "num_texts": 1,
        "num_short": 0,
        "num_whole": 0,
        "num_with_runs": 1,
        "num_words": 0,
        "num_leaked_words": 6,
    }
    assert counts(five, COURSE)["num_with_runs"] == 0


def test_a_text_shorter_than_a_run_leaks_as_a_whole_only() -> None:
    assert counts("it was acute appendicitis again", "acute appendicitis again")["num_whole"] == 1
    assert counts("it was acute appendicitis", "acute appendicitis again")["num_with_runs"] == 0


def test_texts_of_few_words_are_counted_apart() -> None:
    found = counts("Home", "Home")

    assert found["num_short"] == found["num_texts"] == 1
    assert found["num_with_runs"] == found["num_words"] == 0


def test_all_words_in_runs_but_out_of_order_are_not_the_whole() -> None:
    words = COURSE.split()
    found = counts(" ".join([*words[5:], "x", *words[:6]]), COURSE)

    assert found["num_leaked_words"] == 11
    assert found["num_whole"] == 0


def test_parts_that_the_prompt_does_not_name_leak_nothing() -> None:
    found = split_leakage(task(), [AuditedItem(item("a", "x"), {"t": COURSE})], SETTINGS)

    assert found.num_leaking == 0


def test_each_split_is_audited_and_compared_with_train() -> None:
    notes = task(
        train=[item("a", "one two"), item("b", "three", "something else entirely")],
        val=[item("c", "One, two!", "a target of its own"), item("d", "four")],
        test=[item("e", COURSE), item("f", "five", "no")],
    )

    found = audit_leakage(notes, SETTINGS)

    assert {split: each.num_leaking for split, each in found.items()} == {
        "train": 0,
        "val": 0,
        "test": 1,
    }
    assert (found["val"].num_prompts_in_train, found["val"].num_targets_in_train) == (1, 1)
    # "no" is short, so only the other target counts.
    assert (found["test"].num_prompts_in_train, found["test"].num_targets_in_train) == (0, 1)
    assert set(found["test"].texts) == {"reference"}


def test_the_record_names_task_prompt_and_files_and_holds_no_text() -> None:
    notes = task(train=[item("secret-id", COURSE)], val=[], test=[])
    settings = LeakageSettings(splits=["train"])

    record = leakage_record(notes, audit_leakage(notes, settings))

    assert record["prompt"] == {"name": "p", "fingerprint": PROMPT.fingerprint}
    assert record["splits"]["train"]["num_leaking"] == 1
    assert "fluid" not in str(record)
    assert "secret-id" not in str(record)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"splits": ["dev"]}, r"splits of the audit are \['dev'\]"),
        ({"splits": []}, "empty"),
        ({"run_words": 2}, "run_words must be .* at least 5, found 2"),
        ({"min_words": 0}, "min_words must be .* at least 1, found 0"),
    ],
)
def test_settings_are_checked(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LeakageSettings(**changes)  # type: ignore[arg-type]


NAMES = ("brief hospital course", "discharge diagnosis", "followup instructions")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Na 140\nBrief\u00a0Hospital\u2009Course - he", ["brief hospital course"]),
        ("BRIEF HOSPITAL\nCOURSE: he", ["brief hospital course"]),
        ("see Brief Hos\u00adpital Course", ["brief hospital course"]),
        ("Brief_Hospital_Course", ["brief hospital course"]),
        ("Course in hospital: mild", ["brief hospital course"]),
        ("\uff22rief hospital course", ["brief hospital course"]),
        ("**Discharge** Diagnoses; follow-up instructions", ["discharge diagnosis", NAMES[2]]),
        ("The course was brief. Hospital days: 3. Course: mild", []),
        ("", []),
    ],
)
def test_the_words_of_withheld_headings_are_found_however_they_are_written(
    text: str, found: list[str]
) -> None:
    assert headings_in(text, NAMES) == found


@dataclass(frozen=True, kw_only=True)
class Discharges(Notes):
    """Notes with headings."""

    @property
    def withheld_headings(self) -> Sequence[str]:
        return NAMES


def test_a_section_that_the_parser_missed_is_counted_all_the_same() -> None:
    notes = Discharges(**vars(task()))
    cases = [
        AuditedItem(item("a", f"Labs: fine\nBrief/Hospital/Course {COURSE}", "sent home"), {}),
        AuditedItem(item("b", "Labs: fine", "sent home"), {}),
    ]

    found = split_leakage(notes, cases, SETTINGS)

    assert (found.num_items, found.num_with_headings) == (2, 1)
    assert found.headings == {"brief hospital course": 1}


def test_a_target_that_stands_in_the_prompt_is_a_leak_whatever_the_sections_are() -> None:
    case = AuditedItem(item("a", f"Labs fine. {COURSE}. K 4"), {"course": "other words by far"})

    found = split_leakage(task(), [case], SETTINGS)

    assert found.num_leaking == 1
    assert found.texts["target"].num_whole == 1
    assert found.texts["course"].num_with_runs == 0
