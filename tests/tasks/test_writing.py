"""Tasks that write a text: their figures for perfect, empty, constant and shuffled answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest

from biomamba.runtime.errors import ConfigError
from biomamba.tasks.clinical_notes import AuditedItem, WritingTask, references_of
from biomamba.tasks.prompt import Item, Items, Prompt
from biomamba.tasks.task import EMPTY, Prediction, WriteText

PROMPT = Prompt(name="p", template="{note}\nAnswer:", shrink={"note": "left"})
TARGETS = ["PLAN:\nRest for 3 days.", "EXAM:\nNo fever was seen."]
ITEMS = [
    Item(id="a", parts={"note": "Rest for 3 days.", "other": "7"}, target=TARGETS[0]),
    Item(id="b", parts={"note": "No fever was seen."}, target=TARGETS[1]),
]


@dataclass(frozen=True, kw_only=True)
class Notes(WritingTask):
    """A task of two items."""

    def items(self, split: str) -> Items:
        return Items(ITEMS[:1])

    def held_out(self) -> Items:
        return Items(ITEMS[1:])

    @property
    def files(self) -> Mapping[str, str]:
        return {}


def notes(access: str = "open", max_new_tokens: int = 8) -> Notes:
    return Notes(
        name="n", protocol="p", prompt=PROMPT, access=access, max_new_tokens=max_new_tokens
    )


def figures(texts: Sequence[str]) -> dict[str, float]:
    predictions = [Prediction(id=i.id, text=t) for i, t in zip(ITEMS, texts, strict=True)]
    return {measure.name: measure.value for measure in notes().measures(ITEMS, predictions)}


def test_perfect_answers() -> None:
    found = figures(TARGETS)

    assert next(iter(found)) == "rouge1_f"
    assert {found[f"rouge{kind}_f"] for kind in ("1", "2", "l")} == {1}
    assert found["bleu"] == pytest.approx(100)
    assert found["section_coverage"] == found["length_ratio"] == 1
    for wrong in ("unsupported_number_ratio", "negation_flip_ratio", "empty_output_ratio"):
        assert found[wrong] == 0


def test_empty_answers_score_zero_and_are_counted() -> None:
    found = figures(["", ""])

    assert found.pop("empty_output_ratio") == 1
    assert {value for name, value in found.items() if not name.startswith("reference_")} == {0}


def test_what_an_empty_status_holds_is_not_scored() -> None:
    predictions = [Prediction(id=item.id, text=item.target, status=EMPTY) for item in ITEMS]

    assert notes().measures(ITEMS, predictions)[0].value == 0


def test_constant_and_shuffled_answers() -> None:
    # "plan rest for 3 days" and "exam no fever was seen" share no word.
    assert figures(TARGETS[::-1])["rouge1_f"] == 0
    assert figures([TARGETS[0]] * 2)["rouge1_f"] == 1 / 2
    # The second note holds no number: the only number of the second answer has no support.
    assert figures([TARGETS[0]] * 2)["unsupported_number_ratio"] == 1 / 2
    assert figures(TARGETS[::-1])["section_coverage"] == 0


def test_what_the_references_hold_without_support_is_told_whatever_is_written() -> None:
    unsupported = Item(id="c", parts={"note": "Rest."}, target="Rest for 3 days and 4 mg.")
    given = [Prediction(id="a", text="7"), Prediction(id="c", text="")]

    found = {m.name: m for m in notes().measures([ITEMS[0], unsupported], given)}

    # The references hold 3, 3 and 4; of the second one nothing is in its note.
    assert found["reference_unsupported_number_ratio"].value == pytest.approx(2 / 3)
    assert found["reference_unsupported_dose_ratio"].value == 1
    assert found["reference_unsupported_dose_ratio"].higher_is_better is None


def test_support_comes_from_the_parts_of_the_prompt_alone() -> None:
    assert figures(["7", ""])["unsupported_number_ratio"] == 1


def test_predictions_of_other_items_are_refused() -> None:
    predictions = [Prediction(id="b", text="x"), Prediction(id="a", text="x")]

    with pytest.raises(ValueError, match="prediction b is in the place of item a"):
        notes().measures(ITEMS, predictions)


def test_references_are_the_target_where_none_are_named() -> None:
    item = Item(id="a", parts={}, target="t", references=[["x", "y"], ["z"]])

    assert references_of(item) == ["x", "y", "z"]
    assert references_of(ITEMS[0]) == [TARGETS[0]]


def test_the_audit_sees_the_reference_of_each_item() -> None:
    assert list(notes().audited(ITEMS)) == [
        AuditedItem(item, {"reference": item.target}) for item in ITEMS
    ]


def test_answers_and_signatures() -> None:
    assert notes().answer == WriteText(8, ())
    assert notes().signatures(ITEMS)["bleu"].startswith("nrefs:1|")


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"max_new_tokens of n must be .*, found 0"):
        notes(max_new_tokens=0)
    with pytest.raises(ConfigError, match="access is 'secret'"):
        notes(access="secret")


def test_the_columns_of_an_item_do_not_depend_on_the_others() -> None:
    predictions = [Prediction(id="a", text="Rest, 7 mg."), Prediction(id="b", text="Fever.")]
    together = notes().measures(ITEMS, predictions)

    for row, (item, given) in enumerate(zip(ITEMS, predictions, strict=True)):
        alone = notes().measures([item], [given])
        assert [m.name for m in alone] == [m.name for m in together]
        for one, all_of in zip(alone, together, strict=True):
            assert one.columns[0].tolist() == all_of.columns[row].tolist()
