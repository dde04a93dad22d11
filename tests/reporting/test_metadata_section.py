"""The section by year and subject, from the folders of evaluations alone."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from biomamba.evaluation.comparison import ComparisonSettings
from biomamba.evaluation.document_scores import DOCUMENT_FACTS
from biomamba.metrics.measure import Bootstrap
from biomamba.reporting.inputs import read_inputs
from biomamba.reporting.metadata import (
    NO_FACTS,
    MetadataSettings,
    metadata_section,
    newest_years,
    report_facts,
)
from biomamba.reporting.scores import report_scores
from biomamba.reporting.section import Picture, Section, Table
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.runtime.files import write_sealed

COMPARISON = ComparisonSettings(bootstrap=Bootstrap(num_resamples=50, seed=1))
BITS = {
    "base": {"pubmed": [2.0, 2.0, 2.0, 3.0, 3.0, 3.0], "web": 1.0},
    "adapted": {"pubmed": [1.0, 1.0, 1.0, 3.5, 3.5, 3.5], "web": 1.0},
}
# Documents 1 to 3 are of 2001, 4 and 5 of 2002; nothing is known of document 6.
DOCUMENTS = {"1": "2001 0", "2": "2001 0*", "3": "2001 0 1", "4": "2002 1", "5": "2002 1"}
WriteEvaluation = Callable[..., Path]


def write_facts(folder: Path, **changes: Any) -> None:
    (folder / DOCUMENT_FACTS).mkdir(exist_ok=True)
    content = {
        "source": "pubmed",
        "data_fingerprint": "e" * 64,
        "descriptors": ["D1 Sorrows", "D2 Nerves"],
        "documents": {key.zfill(16): line for key, line in DOCUMENTS.items()},
    }
    write_sealed(folder / DOCUMENT_FACTS / "pubmed.json", content | changes)


@pytest.fixture
def evaluation(tmp_path: Path, write_evaluation: WriteEvaluation) -> Path:
    folder = write_evaluation(tmp_path / "evaluation", BITS)
    write_facts(folder)
    return folder


def section_of(*folders: Path, **settings: Any) -> Section:
    inputs = read_inputs(folders)
    scores = report_scores(inputs.evaluations)
    chosen = MetadataSettings(**{"min_documents": 2} | settings)
    return metadata_section(scores, inputs.evaluations, inputs.runs, COMPARISON, chosen)


def tables_of(section: Section) -> Mapping[str, Table]:
    return {part.name: part for part in section.parts if isinstance(part, Table)}


def values_of(table: Table) -> dict[tuple[str, str], float]:
    """Return bits per byte by group and model."""
    lines = [line.split(",") for line in table.csv().splitlines()[1:]]
    return {(line[1], line[3]): round(float(line[4]), 9) for line in lines}


def test_every_year_has_the_figures_of_its_documents(evaluation: Path) -> None:
    section = section_of(evaluation)
    assert values_of(tables_of(section)["years"]) == {
        ("2001", "base"): 2.0,
        ("2001", "adapted"): 1.0,
        ("2002", "base"): 3.0,
        ("2002", "adapted"): 3.5,
    }
    assert "pubmed: 5 of 6 documents have a year; 0 of 2 years" in "\n".join(
        part for part in section.parts if isinstance(part, str)
    )


def test_subjects_are_descriptors_or_branches(evaluation: Path, tmp_path: Path) -> None:
    by_name = values_of(tables_of(section_of(evaluation))["subjects"])
    # Document 3 has both descriptors: (1.0 + 3.5 + 3.5) / 3 of the adapted model.
    assert by_name["Sorrows", "adapted"] == 1.0
    assert by_name["Nerves", "adapted"] == round(8 / 3, 9)
    (tmp_path / "tree").write_text("Sorrows;C04\nNerves;C10.228\nNervous Diseases;C10\n")
    tree = {"mesh_tree": str(tmp_path / "tree")}
    branches = values_of(tables_of(section_of(evaluation, **tree))["subjects"])
    assert {group for group, _ in branches} == {"C04 Sorrows", "C10 Nervous Diseases"}
    assert branches["C10 Nervous Diseases", "adapted"] == round(8 / 3, 9)


def test_small_groups_are_counted_only(evaluation: Path) -> None:
    section = section_of(evaluation, min_documents=3)
    assert {group for group, _ in values_of(tables_of(section)["years"])} == {"2001"}
    texts = [part for part in section.parts if isinstance(part, str)]
    assert any("1 of 2 years have fewer than 3 documents (2 together)" in text for text in texts)


def test_subjects_behind_the_largest_are_counted_only(evaluation: Path) -> None:
    section = section_of(evaluation, num_subjects=1)
    assert {group for group, _ in values_of(tables_of(section)["subjects"])} == {"Nerves"}
    assert any("2 have at least 2 documents, and 1 are shown" in str(p) for p in section.parts)


def test_pictures_show_years_and_subjects(evaluation: Path) -> None:
    pictures = [part for part in section_of(evaluation).parts if isinstance(part, Picture)]
    assert [picture.name for picture in pictures] == ["years_curve", "subjects_map"]
    assert all(picture.png.startswith(b"\x89PNG") for picture in pictures)
    assert pictures[0].files == [str(evaluation / DOCUMENT_FACTS / "pubmed.json")]


def test_one_model_alone_has_no_changes(tmp_path: Path, write_evaluation: WriteEvaluation) -> None:
    folder = write_evaluation(tmp_path / "one", {"base": BITS["base"]})
    write_facts(folder)
    section = section_of(folder)
    assert "change" not in tables_of(section)["years"].header
    assert [p.name for p in section.parts if isinstance(p, Picture)] == ["years_curve"]


def test_without_facts_the_section_says_what_fills_it(
    tmp_path: Path, write_evaluation: WriteEvaluation
) -> None:
    assert section_of(write_evaluation(tmp_path / "e", BITS)).parts == [NO_FACTS]


def test_facts_of_other_documents_are_refused(evaluation: Path) -> None:
    write_facts(evaluation, data_fingerprint="0" * 64)
    with pytest.raises(DataError, match="of other documents than the results beside it"):
        section_of(evaluation)


def test_a_file_of_a_source_that_is_no_longer_scored_is_left_alone(evaluation: Path) -> None:
    write_facts(evaluation, source="gone")
    assert section_of(evaluation).parts == [NO_FACTS]


def test_two_evaluations_know_together_what_each_knows(
    evaluation: Path, tmp_path: Path, write_evaluation: WriteEvaluation
) -> None:
    other = write_evaluation(tmp_path / "other", {"third": BITS["base"]})
    write_facts(other, documents={"6".zfill(16): "2003", "1".zfill(16): "1999"})
    facts = report_facts(read_inputs([evaluation, other]).evaluations).sources["pubmed"]
    years = {int(key): known.year for key, known in facts.items()}
    assert years == {1: 2001, 2: 2001, 3: 2001, 4: 2002, 5: 2002, 6: 2003}


def test_the_newest_training_year_is_that_of_the_runs(
    evaluation: Path, tmp_path: Path, write_run: Callable[..., Path]
) -> None:
    pools = {"pubmed": [{"newest_year": 2001}, {"newest_year": None}, {}], "web": [{}]}
    run = write_run(tmp_path / "run", data={"stores": pools})
    old = write_run(tmp_path / "old")
    runs = read_inputs([run, old]).runs
    assert newest_years(runs, MetadataSettings()) == {"run": 2001}
    assert newest_years(runs, MetadataSettings(newest_year=1990)) == {"training": 1990}
    parts = section_of(evaluation, run, old).parts
    assert "The newest training document of run is of 2001." in parts


def test_a_missing_tree_is_told(evaluation: Path) -> None:
    with pytest.raises(ConfigError, match=r"report\.metadata\.mesh_tree"):
        section_of(evaluation, mesh_tree="none")


@pytest.mark.parametrize("name", ["min_documents", "num_subjects", "mesh_depth"])
def test_settings_check_themselves(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least"):
        MetadataSettings(**{name: 0})  # type: ignore[arg-type]
