"""Small invented files of all tasks, in the layouts that their readers expect."""

import csv
import gzip
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

LABELS = ("yes", "no", "maybe")
NUM_CHOICES = 99
SECTIONS = ("Service", "Allergies", "Chief Complaint", "History of Present Illness")
TARGETS = ("Brief Hospital Course", "Discharge Medications", "Discharge Diagnosis")
ARC = ("arc_easy", "arc_challenge")
MTS = ("TrainingSet", "ValidationSet", "TestSet-1-MEDIQA-Chat-2023", "TestSet-2-MEDIQA-Sum-2023")
ACI = ("train", "valid", "clinicalnlp_taskB_test1", "clinicalnlp_taskC_test2", "clef_taskC_test3")
NOTE_COLUMNS = ["note_id", "subject_id", "hadm_id", "note_type", "note_seq", "charttime"]


def write_task_files(root: Path) -> None:
    """Write the files of all tasks below a folder that stands for paths.raw_dir."""
    for write in (write_pubmedqa, write_bioasq, write_choices, write_notes, write_dialogues):
        write(root)


def text(key: str) -> str:
    """Return words that no other key has, and some that all have."""
    return f"{key} " + " ".join(random.Random(key).choices(["rest", "fever", "dose"], k=9))


def save(path: Path, rows: Sequence[Any], *, is_csv: bool = False) -> None:
    """Write rows by the name of the file; of a `.json` the one row is all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
        return
    opener: Any = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8", newline="") as file:
        if is_csv:
            csv.writer(file).writerows(rows)
        else:
            file.write("\n".join(map(json.dumps, rows)))


def write_pubmedqa(root: Path) -> None:
    """Write 1,000 questions, the first 500 with the labels of the official test."""
    labels = [*["yes"] * 276, *["no"] * 169, *["maybe"] * 55] * 2
    records = {
        str(n): {"LABELS": ["RESULTS"], "CONTEXTS": [text(f"c{n}")], "QUESTION": text(f"q{n}")}
        | {"LONG_ANSWER": text("l"), "final_decision": label}
        for n, label in enumerate(labels)
    }
    save(root / "pubmedqa/ori_pqal.json", [records])
    save(root / "pubmedqa/test_ground_truth.json", [{str(n): labels[n] for n in range(500)}])


def write_bioasq(root: Path) -> None:
    for place in ("bioasq/train/1", "bioasq/test/2", "12B1_golden", "12B2_golden"):
        questions = [
            {"id": f"{place}{kind}{n}", "body": text(f"{place}{kind}{n}"), "type": kind}
            | {"exact_answer": answer, "snippets": [{"text": text("s")}]}
            for n in range(50)
            for kind, answer in (
                ("yesno", LABELS[n % 2]),
                ("factoid", [[f"gene {n}", f"GEN{n}"]]),
                ("list", [[f"gene {n}", f"GEN{n}"], [f"gene {n + 1}"]]),
            )
        ]
        folder = root if "/" in place else root / "bioasq-12b-golden"
        save(folder / f"{place}.json", [{"questions": questions}])


def choice_row(name: str, key: str, right: int) -> dict[str, Any]:
    """Return a row in the columns of a public set."""
    options, question = [f"{key} {letter}" for letter in "abcd"], text(key)
    named = {"text": options, "label": ["A", "B", "C", "D"]}
    rows: dict[str, dict[str, Any]] = {
        "hellaswag": {"activity_label": "Rest", "ctx_a": question, "ctx_b": "he"}
        | {"endings": options, "label": str(right)},
        "winogrande": {"sentence": f"{question} _ was left.", "answer": str(right + 1)}
        | {"option1": options[0], "option2": options[1]},
        "piqa": {"goal": question, "sol1": options[0], "sol2": options[1], "label": right},
        "medmcqa": {"id": key, "question": question, "cop": right}
        | dict(zip(("opa", "opb", "opc", "opd"), options, strict=True)),
        "medqa": {"question": question, "answer_idx": "AB"[right]}
        | {"options": dict(zip("ABCD", options, strict=True))},
        "openbookqa": {"id": key, "question_stem": question, "choices": named}
        | {"answerKey": "AB"[right]},
    }
    arc = {"id": key, "question": question, "choices": named, "answerKey": "AB"[right]}
    return rows.get(name, arc)


def write_choices(root: Path) -> None:
    for name in ("hellaswag", "winogrande", "piqa", "medmcqa", "medqa", "openbookqa", *ARC):
        for split in ("train", "validation", "test"):
            rows = [choice_row(name, f"{name}-{split}-{n}", n % 2) for n in range(NUM_CHOICES)]
            is_medqa = name == "medqa"
            file = f"phrases_no_exclude_{split}.jsonl" if is_medqa else f"{split}-0-of-1.parquet"
            save(root / name / file, rows)


def write_notes(root: Path) -> None:
    rows: list[Any] = [[*NOTE_COLUMNS, "storetime", "text"]]
    for n in range(200):
        patient = 10_000_000 + n // 2
        name = f"{patient}-DS-{n}"
        note = " \n".join(f"{each}:\n{text(name + each)}.\n" for each in SECTIONS + TARGETS)
        rows.append([name, patient, 2 * 10**7 + n, "DS", n, "2150-01-01 00:00:00", "", note])
    save(root / "mimic-iv-note/2.2/note/discharge.csv.gz", rows, is_csv=True)
    samples = [
        {"note_id": n, "specialties": ["Discharge Summary"]}
        | {"text": ", ".join(f"{e.upper()}:,  {text(f'{n} {e}')}." for e in SECTIONS + TARGETS)}
        for n in range(60)
    ]
    save(root / "mtsamples/mtsamples_unique.jsonl.gz", samples)


def write_dialogues(root: Path) -> None:
    for name in MTS:
        rows = [(n, "CC", text(f"{name}{n}"), text("d")) for n in range(9)]
        header = ("ID", "section_header", "section_text", "dialogue")
        save(root / f"mts-dialog/MTS-Dialog-{name}.csv", [header, *rows], is_csv=True)
    for name in ACI:
        visits = [("aci", f"{name}{n}", text(f"{name}{n}"), text("d")) for n in range(9)]
        header = ("dataset", "encounter_id", "note", "dialogue")
        save(root / f"aci-bench/{name}.csv", [header, *visits], is_csv=True)
