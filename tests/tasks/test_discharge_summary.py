"""Sections of the discharge from those of the admission."""

from functools import cache
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig

from biomamba.config.compose import compose_config
from biomamba.data.document import Document, Reject
from biomamba.runtime.errors import ConfigError
from biomamba.tasks.clinical_notes import DischargeSummary
from biomamba.tasks.clinical_sections import headings_of
from biomamba.tasks.prompt import Item
from biomamba.tasks.task import Prediction

FIXTURES = Path(__file__).parents[1] / "fixtures" / "clinical"
PRESETS = ("discharge_summary", "discharge_summary_paper", "discharge_summary_paper_sft")


@cache
def task(preset: str, *changes: str, file: Path | None = None) -> DischargeSummary:
    cfg: DictConfig = compose_config(
        "evaluate",
        [
            "checkpoint=x",
            "paths.raw_dir=raw",
            f"task=[{preset}]",
            f"tasks.{preset}.notes.rows.files=[{file or FIXTURES / 'discharge.csv'}]",
            f"tasks.{preset}.split.val_permille=300",
            *(f"tasks.{preset}.{change}" for change in changes),
        ],
    )
    built: DischargeSummary = instantiate(cfg.tasks[preset], _convert_="all")
    return built


def made(built: DischargeSummary, text: str) -> Item | Reject:
    return built._item(Document(text, "1-DS-1", "clinical", "1"))


def test_context_and_target_are_sections_with_headings_order_and_repeats() -> None:
    built = task("discharge_summary")
    items = {item.id: item for item in built.items("train").items}
    item = items["10000202-DS-2"]

    assert item.target.startswith("brief hospital course:\nThe patient was taken")
    assert item.target.endswith("followup instructions:\nClinic in two weeks.")
    assert item.target.count("course:\n") == 2
    assert headings_of(item.target) >= set(built.target) - {"discharge disposition"}
    assert "Laparoscopic appendectomy ___" in item.parts["context"]
    assert "mental status" not in item.parts["context"].lower()
    assert item.group == "10000202"


def test_nothing_of_the_discharge_is_in_the_context() -> None:
    built = task("discharge_summary")
    items = [*built.items("train").items, *built.items("val").items, *built.held_out().items]

    for found in built.audited(items):
        assert set(found.withheld) == set(built.target)
        for text in found.withheld.values():
            assert text == "___" or text not in found.item.parts["context"]
        assert "walks alone" not in found.item.parts["context"]


def test_the_published_protocol_shows_the_hospital_course() -> None:
    built = task("discharge_summary_paper")
    items = built.items("train").items

    for found in built.audited(items):
        first = found.withheld["brief hospital course"].splitlines()[0]
        assert first in found.item.parts["context"]
        assert first not in found.item.target


@pytest.mark.parametrize(
    ("preset", "context", "target", "new"),
    [
        ("discharge_summary", None, None, 1_536),
        ("discharge_summary_paper", 4_000, None, 128),
        ("discharge_summary_paper_sft", 3_000, 2_000, 128),
    ],
)
def test_lengths_of_the_presets(
    preset: str, context: int | None, target: int | None, new: int
) -> None:
    built = task(preset)
    course = "word " * 2_000
    note = f"Past Medical History:\n{course}\nHospital Course:\n{course}\nDischarge Diagnosis:\nflu"

    found = made(built, note)

    assert isinstance(found, Item)
    whole = len(course.strip()) + len("past medical history:\n")
    assert len(found.parts["context"]) == pytest.approx(min(context or whole, whole), abs=1)
    assert built.answer.max_new_tokens == new
    (reference,) = found.references[0]
    assert reference.endswith("flu")
    assert len(found.target) == pytest.approx(target or len(reference), abs=1)


def test_notes_without_sections_and_empty_targets_are_counted() -> None:
    found = task("discharge_summary").items("val")

    assert [item.id for item in found.items] == ["10000505-DS-4"]
    assert found.rejects == {"no section of the context": 1, "no section of the target": 1}


def test_short_contexts_and_targets_are_counted() -> None:
    built = task("discharge_summary")
    long = "word " * 50

    assert made(built, f"Service: x\nDischarge Diagnosis:\n{long}") == Reject(
        "context shorter than 100 characters", "1-DS-1"
    )
    assert made(built, f"Pertinent Results: {long}\nDischarge Diagnosis:\nflu") == Reject(
        "target shorter than 50 characters", "1-DS-1"
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_scores_of_perfect_constant_empty_and_shuffled_summaries(preset: str) -> None:
    built = task(preset)
    items = built.items("train").items

    def score(texts: list[str]) -> dict[str, float]:
        given = [Prediction(id=i.id, text=t) for i, t in zip(items, texts, strict=True)]
        return {measure.name: measure.value for measure in built.measures(items, given)}

    perfect = [item.references[0][0] for item in items]
    assert score(perfect)["rouge1_f"] == score(perfect)["section_coverage"] == 1
    assert score([""] * len(items))["rouge1_f"] == 0
    assert score([""] * len(items))["empty_output_ratio"] == 1
    assert 0 < score(perfect[1:] + perfect[:1])["rouge1_f"] < 1
    assert 0 < score([perfect[0]] * len(items))["rouge1_f"] < 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("context=[weather]", r"context of discharge_summary names the sections \['weather'\]"),
        ("target=[]", "target of discharge_summary names the sections of nothing"),
        ("target=[service]", r"\['service'\] are in context and in target"),
        ("withheld=[weather]", r"withheld of discharge_summary names"),
    ],
)
def test_sections_that_cannot_be_meant_are_refused(change: str, message: str) -> None:
    with pytest.raises(Exception, match=message) as caught:
        task("discharge_summary", change)

    cause = caught.value.__cause__ or caught.value
    assert isinstance(cause, ConfigError) or "ConfigError" in str(caught.value)


def test_real_notes_in_the_layout_of_mimic_become_items(real_data: Path) -> None:
    file = real_data / "mimic-iv-note-format" / "discharge.csv.gz"
    if not file.is_file():
        pytest.skip(f"no {file}")
    built = task(
        "discharge_summary",
        "sections=lines",
        "audit_sections=lines",
        "split.test_permille=300",
        file=file,
    )

    train, test = built.items("train"), built.held_out()

    assert len(train.items) > 15
    assert len(test.items) > 15
    assert {item.unit for item in train.items}.isdisjoint(item.unit for item in test.items)
    for found in built.audited(test.items):
        assert not any(
            text in found.item.parts["context"]
            for text in found.withheld.values()
            if len(text) > 100
        )
