"""The rest of a note from its beginning."""

import random
from pathlib import Path

import pytest

from biomamba.data.corpora.table import MimicNotes
from biomamba.data.document import SplitRule
from biomamba.data.rows import LocalRows
from biomamba.runtime.errors import ConfigError
from biomamba.tasks.clinical_notes import NoteCompletion, between_words
from biomamba.tasks.prompt import Prompt
from biomamba.tasks.task import Prediction

FIXTURES = Path(__file__).parents[1] / "fixtures" / "clinical"
PROMPT = Prompt(name="p", template="{prefix}", open_end=True, shrink={"prefix": "left"})


def task(
    *,
    ratio: float = 0.5,
    max_prefix: int | None = None,
    max_target: int | None = None,
    min_chars: int = 50,
    file: Path = FIXTURES / "discharge.csv",
) -> NoteCompletion:
    return NoteCompletion(
        name="note_completion",
        protocol="p",
        prompt=PROMPT,
        access="restricted",
        max_new_tokens=9,
        notes=MimicNotes(rows=LocalRows(files=[str(file)]), licence="invented"),
        split=SplitRule(val_permille=300, test_permille=100),
        prefix_ratio=ratio,
        max_prefix_chars=max_prefix,
        max_target_chars=max_target,
        min_prefix_chars=min_chars,
        min_target_chars=min_chars,
    )


def test_prefix_and_rest_are_the_note_cut_between_words() -> None:
    notes = task()
    texts = {d.id: d.text for d in notes.notes.documents(notes.notes.shards()[0])}  # type: ignore[union-attr]

    for item in (*notes.items("train").items, *notes.held_out().items):
        text, prefix = texts[str(item.id)], item.parts["prefix"]
        assert text.startswith(prefix)
        assert text.endswith(item.target)
        gap = text[len(prefix) : len(text) - len(item.target)]
        assert gap
        assert gap.isspace()
        assert len(prefix) <= len(text) / 2
        assert item.references == [[item.target]]
        assert item.group == str(item.id).split("-")[0]


def test_a_cut_target_is_compared_with_the_whole_rest() -> None:
    whole, cut = (task(max_target=limit).items("train").items[0] for limit in (None, 90))

    assert cut.references == whole.references == [[whole.target]]
    assert whole.target.startswith(cut.target)
    assert len(cut.target) <= 90


def test_a_prefix_has_at_most_so_many_characters() -> None:
    assert {len(i.parts["prefix"]) <= 200 for i in task(max_prefix=200).items("train").items} == {
        True
    }


def test_short_rests_are_counted() -> None:
    found = task(ratio=0.9, min_chars=100).items("val")

    # A tenth of 232 and of 349 characters is too short, one of 1,349 is not.
    assert found.rejects == {"rest shorter than 100 characters": 2}
    assert len(found.items) == 1


def test_a_place_between_words_is_never_inside_of_one() -> None:
    draw = random.Random(0)
    for _ in range(200):
        text = "".join(draw.choices("ab \n", k=draw.randrange(1, 20)))
        place = draw.randrange(len(text) + 1)
        cut = between_words(text, place)

        is_between = cut == 0 or cut == len(text) or text[cut - 1].isspace() or text[cut].isspace()
        assert cut <= place
        assert is_between or not any(c.isspace() for c in text[: place + 1])


def test_scores_of_perfect_empty_and_constant_texts() -> None:
    notes = task()
    items = notes.items("train").items

    def score(texts: list[str]) -> float:
        given = [Prediction(id=i.id, text=t) for i, t in zip(items, texts, strict=True)]
        return notes.measures(items, given)[0].value

    perfect = [item.target for item in items]
    assert score(perfect) == 1
    assert score([""] * len(items)) == 0
    assert 0 < score([perfect[0]] * len(items)) < 1
    assert 0 < score(perfect[1:] + perfect[:1]) < 1


def test_settings_are_checked() -> None:
    with pytest.raises(
        ConfigError, match=r"prefix_ratio of note_completion must be .* below 1, found 1"
    ):
        task(ratio=1)
    with pytest.raises(ConfigError, match="must be a whole number of at least 1, found 0"):
        task(min_chars=0)


def test_real_reports_in_the_layout_of_mimic_become_items(real_data: Path) -> None:
    file = real_data / "mimic-iv-note-format" / "radiology.csv.gz"
    if not file.is_file():
        pytest.skip(f"no {file}")
    notes = task(file=file)

    found = {"train": notes.items("train"), "val": notes.items("val"), "test": notes.held_out()}

    patients = [{item.unit for item in each.items} for each in found.values()]
    assert len(set().union(*patients)) == sum(map(len, patients))
    short = ("shorter", "prefix", "rest")
    assert all(r.startswith(short) for each in found.values() for r in each.rejects)
    assert sum(len(each.items) for each in found.values()) > 40
