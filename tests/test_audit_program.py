"""The audits as a program: counts are written, texts are not."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from biomamba.audit import main
from biomamba.runtime.errors import ConfigError

NOTES = Path(__file__).parent / "fixtures" / "clinical" / "discharge.csv"
PRESETS = ("discharge_summary", "discharge_summary_paper")
Compose = Callable[..., DictConfig]


def test_the_presets_differ_in_what_they_leak(
    compose: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = [f"task=[{','.join(PRESETS)}]", f"paths.run_dir={tmp_path}"]
    for name in PRESETS:
        overrides += [f"tasks.{name}.notes.rows.files=[{NOTES}]"]
        overrides += [f"tasks.{name}.split.val_permille=300"]

    main(compose("audit", *overrides))

    text = (tmp_path / "leakage.json").read_text()
    splits = {name: task["splits"] for name, task in json.loads(text)["tasks"].items()}
    for split in ("train", "val", "test"):
        assert splits["discharge_summary"][split]["num_leaking"] == 0
        course = splits["discharge_summary_paper"][split]["texts"]["brief hospital course"]
        assert course["num_with_runs"] == course["num_texts"] - course["num_short"] > 0
    printed = capsys.readouterr().out
    assert "discharge_summary_paper test: brief hospital course" in printed
    for shown in (printed, text):
        assert "furosemide" not in shown
        assert "10000101" not in shown


def test_repeated_texts_are_counted_and_hashed(
    compose: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = "he was given one dose of cefazolin 2 g. on the first day after surgery he ate"
    texts = tmp_path / "texts.jsonl"
    texts.write_text("\n".join(json.dumps({"text": t}) for t in (copied, "nothing known")))
    corpus = f"corpora.mimic_discharge.rows.files=[{NOTES}]"

    overrides = ["corpus=[mimic_discharge]", corpus, "verbatim.run_words=10"]
    main(compose("audit", f"texts={texts}", f"paths.run_dir={tmp_path}", *overrides))

    text = (tmp_path / "verbatim.json").read_text()
    record = json.loads(text)
    assert (record["num_notes"], record["num_texts"]) == (8, 2)
    assert list(record["repeating_texts"]) == ["line 1"]
    assert record["repeating_texts"]["line 1"]["longest_run_words"] == 17
    printed = capsys.readouterr().out
    assert "texts that repeat a note" in printed
    assert "cefazolin" not in text + printed


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "nothing to audit"),
        (["texts=a.jsonl"], "go together"),
        (["corpus=[mimic_discharge]", "task=[mts_dialog]"], "go together"),
        (["task=[pubmedqa]"], "task pubmedqa writes no text"),
    ],
)
def test_what_cannot_be_audited_is_refused(
    compose: Compose, overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        main(compose("audit", *overrides))
