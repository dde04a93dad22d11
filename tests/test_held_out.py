"""Test items are out of reach of training and selection, and asked as training puts items."""

import ast
import csv
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from biomamba.config.check import build
from biomamba.config.compose import compose_config
from biomamba.data.tokenizer import Tokenizer
from biomamba.evaluation.answers import AnswerOptions, Questions
from biomamba.evaluation.models.ours import MambaAnswers
from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.config import Mamba2Config
from biomamba.model.generation import prefill
from biomamba.model.language_model import MambaLM
from biomamba.tasks.instruct import InstructDataModule
from biomamba.tasks.instruct_samples import SampleRules, encode_items
from biomamba.tasks.pubmedqa import PubMedQA
from biomamba.tasks.task import Task

PACKAGE = Path(__file__).resolve().parents[1] / "biomamba"
GIVES_TEST_ITEMS = {"held_out", "audited"}
LABELS = ("yes", "no", "maybe")
POISON = "the poison of a test item, long enough to be a note of its own"
TOKENIZER = Tokenizer.byte_tokenizer()


def reads_test_items(tree: ast.AST) -> list[int]:
    """Return the lines that name what gives test items, other than to define it.

    A task may use its own: what calls it is found.
    """
    return [
        node.lineno
        for node in ast.walk(tree)
        if (
            isinstance(node, ast.Attribute)
            and node.attr in GIVES_TEST_ITEMS
            and not (isinstance(node.value, ast.Name) and node.value.id == "self")
        )
        or (isinstance(node, ast.Constant) and node.value in GIVES_TEST_ITEMS)
    ]


def test_only_evaluation_asks_for_test_items() -> None:
    asking = {
        path.relative_to(PACKAGE).as_posix()
        for path in sorted(PACKAGE.rglob("*.py"))
        if reads_test_items(ast.parse(path.read_text(encoding="utf-8")))
    }

    assert asking == {"evaluation/task_split.py", "evaluation/leakage.py"}


@pytest.mark.parametrize(
    "code",
    ["task.held_out()", "f = task.held_out", "getattr(task, 'held_out')()", "a.b.audited('test')"],
)
def test_any_way_to_ask_is_seen(code: str) -> None:
    assert reads_test_items(ast.parse(code)) == [1]


def test_a_task_may_use_its_own() -> None:
    code = "class T:\n def held_out(self): ...\n def x(self): return self.held_out()"
    assert reads_test_items(ast.parse(code)) == []


def words(key: object, count: int = 12) -> str:
    return " ".join(random.Random(str(key)).choices(["rest", "fever", "dose", "harm"], k=count))


def write_pubmedqa(root: Path, poison: str | None) -> None:
    def text(n: int, part: str, count: int = 12) -> str:
        return f"{part} {n} {poison if poison and n < 20 else words((n, part), count)}"

    records = {
        str(n): {
            "QUESTION": text(n, "question"),
            "CONTEXTS": [text(n, "context", 1 + 53 * (n % 9))],
            "LABELS": ["RESULTS"],
            "final_decision": LABELS[n % 3],
        }
        for n in range(90)
    }
    folder = root / "pubmedqa"
    folder.mkdir(parents=True)
    (folder / "ori_pqal.json").write_text(json.dumps(records))
    (folder / "test_ground_truth.json").write_text(
        json.dumps({str(n): LABELS[n % 3] for n in range(20)})
    )


def write_bioasq(root: Path, poison: str | None) -> None:
    folder = root / "bioasq-12b-golden"
    folder.mkdir(parents=True)
    for name in ("12B1", "12B2"):
        bad = poison if name == "12B2" else None
        questions = [
            {"id": f"{name}{n}", "body": f"{name} {n} {bad or words(n)}?", "type": "yesno"}
            | {"exact_answer": LABELS[n % 2], "snippets": [{"text": bad or words((name, n))}]}
            for n in range(60)
        ]
        (folder / f"{name}_golden.json").write_text(json.dumps({"questions": questions}))


def write_choices(root: Path, poison: str | None) -> None:
    (root / "medqa").mkdir(parents=True)
    for split in ("train", "dev", "validation", "test"):
        bad = poison if split == "test" else None
        rows = [
            {"question": f"{split} {n} {bad or words((split, n))}", "answer_idx": "AB"[n % 2]}
            | {"options": {letter: f"{letter} {bad or n}" for letter in "ABCD"}}
            for n in range(60)
        ]
        file = root / "medqa" / f"phrases_no_exclude_{split}.jsonl"
        file.write_text("\n".join(map(json.dumps, rows)))


def write_notes(root: Path, poison: str | None, test_ids: Sequence[str] = ()) -> None:
    folder = root / "mimic-iv-note" / "2.2" / "note"
    folder.mkdir(parents=True)
    header = [*("note_id", "subject_id", "hadm_id", "note_type", "note_seq", "charttime")]
    with (folder / "discharge.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*header, "storetime", "text"])
        for n in range(300):
            patient, name = 10_000_000 + n // 2, f"{10_000_000 + n // 2}-DS-{n}"
            bad = f"{poison} {n}" if name in test_ids else None
            text = "\n".join(f"{part} {bad or words((n, part), 40)}." for part in range(8))
            row = [name, patient, 2 * 10**7 + n, "DS", n, "2150-01-01 00:00:00", "", text]
            writer.writerow(row)


NOTE_FILES = "tasks.note_completion.notes.rows.files=[${paths.raw_dir}/mimic-iv-note/2.2/note/*]"
CASES: dict[str, tuple[Callable[..., None], str, list[str]]] = {
    "pubmedqa": (write_pubmedqa, "pubmedqa", ["tasks.pubmedqa.protocol=own-3way"]),
    "bioasq": (write_bioasq, "bioasq_yesno_local", []),
    "medqa": (write_choices, "medqa", []),
    "notes": (write_notes, "note_completion", [NOTE_FILES]),
}


def open_task(root: Path, name: str, overrides: Sequence[str]) -> Task:
    given = [f"task=[{name}]", "checkpoint=x", f"paths.raw_dir={root}", *overrides]
    return build(compose_config("evaluate", given).tasks[name])  # type: ignore[no-any-return]


def texts_of(task: Task) -> str:
    return "".join(repr(task.items(split).items) for split in ("train", "val"))


@pytest.mark.parametrize("case", list(CASES))
def test_what_test_items_say_changes_nothing_of_training_and_selection(
    case: str, tmp_path: Path
) -> None:
    write, name, overrides = CASES[case]
    write(tmp_path / "clean", None)
    clean = open_task(tmp_path / "clean", name, overrides)
    more = ([item.id for item in clean.held_out().items],) if case == "notes" else ()
    write(tmp_path / "poisoned", POISON, *more)
    poisoned = open_task(tmp_path / "poisoned", name, overrides)

    assert all(POISON in repr(item.parts) for item in poisoned.held_out().items)
    assert len(clean.held_out().items) == len(poisoned.held_out().items) > 0
    assert clean.items("train").items
    assert clean.items("val").items
    assert texts_of(poisoned) == texts_of(clean)
    assert POISON not in texts_of(poisoned)


@pytest.fixture
def pubmedqa(tmp_path: Path) -> Task:
    write_pubmedqa(tmp_path / "raw", None)
    return open_task(tmp_path / "raw", *CASES["pubmedqa"][1:])


def test_fine_tuning_neither_asks_for_nor_sees_a_test_item(
    pubmedqa: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test_prompts = {
        tuple(pubmedqa.prompt.encode(item, TOKENIZER, 10_000).ids)
        for item in pubmedqa.held_out().items
    }
    monkeypatch.setattr(PubMedQA, "held_out", lambda _: pytest.fail("a test split was asked for"))
    TOKENIZER.save(tmp_path / "tokenizer.json")
    overrides = ["data=instruct", "task=[pubmedqa]", "tasks.pubmedqa.protocol=own-3way"]
    overrides += [f"paths.raw_dir={tmp_path / 'raw'}", f"data.tokenizer={tmp_path}"]
    overrides += ["data.budget.seq_len=4_096", "max_tokens=32_768", "tokens_per_step=32_768"]
    cfg = compose_config("train", [*overrides, "data.max_repetition=null"])
    module: Any = build(cfg.data)

    assert isinstance(module, InstructDataModule)
    module.prepare_data()
    module.setup("fit")
    assert module.rows_per_epoch > 0
    learned = {
        tuple(sample.tokens[: sample.num_context])
        for found in module._found.values()
        for samples in (found.train, found.val)
        for sample in samples.samples
    }
    assert len(learned) == 70
    assert not learned & test_prompts


def make_model() -> MambaAnswers:
    torch.manual_seed(0)
    config = Mamba2Config(d_model=8, n_layer=1, vocab_size=257, d_state=4, headdim=8)
    model = MambaLM(config, ChunkedScan()).eval()
    return MambaAnswers("model", model, TOKENIZER, checkpoint=("runs/x/model", "c" * 64))


def test_evaluation_reads_the_ids_that_fine_tuning_learned(
    pubmedqa: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: Any = build(compose_config("evaluate", ["checkpoint=x"]).answers)
    seq_len = SampleRules(max_target_tokens=32).max_target_tokens + limits.max_prompt_tokens
    samples = encode_items(pubmedqa, "val", TOKENIZER, SampleRules(max_target_tokens=32), seq_len)
    seen: list[list[int]] = []
    behind = MambaAnswers._behind

    def seeing(model: MambaLM, prompts: Any, segment_tokens: int) -> Any:
        seen.extend(list(prompt) for prompt in prompts)
        return prefill(model, prompts, segment_tokens)

    answered: list[list[int]] = []

    def answering(self: MambaAnswers, logits: Any, states: Any, answers: Any) -> Any:
        answered.extend(list(answer) for answer in answers)
        return behind(self, logits, states, answers)

    monkeypatch.setattr("biomamba.evaluation.models.ours.prefill", seeing)
    monkeypatch.setattr(MambaAnswers, "_behind", answering)
    items = pubmedqa.items("val").items
    questions = Questions(pubmedqa, make_model(), AnswerOptions(split="val"))
    raws = questions.ask(items)

    assert samples.num_shortened_prompts == sum(raw.num_cut_tokens > 0 for raw in raws) > 0
    assert len(samples.samples) == len(items) == len(seen)
    for number, (item, sample) in enumerate(zip(items, samples.samples, strict=True)):
        asked = seen[number] + answered[3 * number + LABELS.index(item.target)]
        assert asked == [TOKENIZER.eod_id, *sample.tokens[:-1]]
        assert sample.tokens[-1] == TOKENIZER.eod_id


def test_prompts_are_cut_alike_by_default() -> None:
    train = compose_config("train", ["data=instruct", "max_tokens=1_024", "tokens_per_step=1_024"])
    answers = compose_config("evaluate", ["checkpoint=x"]).answers

    left = train.data.budget.seq_len - train.data.samples.max_target_tokens
    assert left == answers.max_prompt_tokens == AnswerOptions().max_prompt_tokens
