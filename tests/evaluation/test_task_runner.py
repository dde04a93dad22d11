"""Models on tasks: killed, resumed, on several ranks, with restricted items."""

import json
import random
import stat
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from biomamba.data.tokenizer import Tokenizer
from biomamba.evaluation.answer_model import AnswerModel, read_published
from biomamba.evaluation.answers import AnswerOptions
from biomamba.evaluation.label_head import HeadOptions
from biomamba.evaluation.models.ours import MambaAnswers
from biomamba.evaluation.records import TaskRecord
from biomamba.evaluation.task_runner import TaskEvaluation, header_of, items_digest
from biomamba.evaluation.task_split import TaskSplit
from biomamba.metrics.measure import Bootstrap
from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.config import Mamba2Config
from biomamba.model.language_model import MambaLM
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.tasks.bioasq import BioASQYesNo
from biomamba.tasks.prompt import Item, Items, Prompt
from biomamba.tasks.task import ChooseOption, Task, WriteText

Build = Callable[..., Any]
OPTIONS = AnswerOptions(batch_size=4, num_random_draws=5)
BOOTSTRAP = Bootstrap(num_resamples=50)
HEAD: dict[str, Any] = {"label_by": "head", "head": HeadOptions()}


def evaluation(
    folder: Path, tasks: Sequence[Task], models: Sequence[AnswerModel], **changes: Any
) -> TaskEvaluation:
    return TaskEvaluation(models, tasks, replace(OPTIONS, **changes), folder / "predictions")


def figures_of(found: TaskEvaluation) -> list[TaskRecord]:
    return list(found.records(BOOTSTRAP, {"git": "abc"}))


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted((folder / "predictions").iterdir())}


class Killed(BaseException):
    """What ends a process from outside."""


class Mortal:
    """A model that is killed after so many batches."""

    def __init__(self, model: Any, num_batches: int) -> None:
        self._model, self._left = model, num_batches

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def score(self, requests: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise Killed
        return self._model.score(requests)


def make_mamba(label: str = "model", seed: int = 0) -> MambaAnswers:
    torch.manual_seed(seed)
    config = Mamba2Config(d_model=16, n_layer=1, vocab_size=257, d_state=4, headdim=8)
    model = MambaLM(config, ChunkedScan(chunk_size=16)).eval()
    return MambaAnswers(
        label, model, Tokenizer.byte_tokenizer(), checkpoint=("runs/x/model", f"{seed}" * 64)
    )


def test_a_killed_run_repeats_nothing_and_ends_as_if_it_had_not_been(
    toy_task: Build, toy_model: Build, tmp_path: Path
) -> None:
    task, model = toy_task(), toy_model()
    whole = evaluation(tmp_path / "whole", [task], [toy_model()])
    whole.answer()
    records = figures_of(whole)

    for num_batches in (2, 0, 3):
        with pytest.raises(Killed):
            evaluation(tmp_path / "killed", [task], [Mortal(model, num_batches)]).answer()
    resumed = evaluation(tmp_path / "killed", [task], [model])
    resumed.answer()

    assert figures_of(resumed) == records
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert len(model.asked) == len(set(model.asked)) == 23
    resumed.answer()
    assert figures_of(evaluation(tmp_path / "killed", [task], [model])) == records
    assert len(model.asked) == 23


@pytest.mark.parametrize(
    "changes", [{}, {"label_by": "generation"}, {"prior_correction": True}, HEAD]
)
def test_ranks_and_kills_leave_no_trace_in_the_answers_of_our_models(
    changes: dict[str, Any], toy_task: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [toy_task(), toy_task(name="options", kind=ChooseOption())]
    models = [make_mamba("base"), make_mamba("adapted", 1)]
    alone = evaluation(tmp_path / "alone", tasks, models, **changes)
    alone.answer()
    records = figures_of(alone)

    # A run of three ranks of which the first did not start, gone on with by two.
    together = evaluation(tmp_path / "together", tasks, models, **changes)
    for num_ranks, started in ((3, (2, 1)), (2, (1, 0))):
        monkeypatch.setenv("WORLD_SIZE", str(num_ranks))
        for rank in started:
            monkeypatch.setenv("RANK", str(rank))
            together.answer()
    assert figures_of(together) == records
    assert contents(tmp_path / "together") == contents(tmp_path / "alone")


def test_a_rank_that_did_not_answer_is_told(
    toy_task: Build, toy_model: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    found = evaluation(tmp_path, [toy_task()], [toy_model()])
    found.answer()

    with pytest.raises(DataError, match=r"toy\.model\.jsonl: 11 of 23 items have no answer"):
        figures_of(found)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"prompt": Prompt(name="other", template="{question}:", shrink={})}, "prompt, prompt_f"),
        ({"protocol": "other"}, "protocol"),
        ({"splits": {"test": range(9), "train": [], "val": []}}, "items"),
        ({"kind": ChooseOption()}, "options"),
    ],
)
def test_answers_to_other_questions_are_refused(
    changes: dict[str, Any], named: str, toy_task: Build, toy_model: Build, tmp_path: Path
) -> None:
    evaluation(tmp_path, [toy_task()], [toy_model()]).answer()

    with pytest.raises(ConfigError, match=f"{named}.* differ; choose another run_id"):
        evaluation(tmp_path, [toy_task(**changes)], [toy_model()]).answer()


def test_answers_of_another_checkpoint_or_way_of_asking_are_refused(
    toy_task: Build, toy_model: Build, tmp_path: Path
) -> None:
    evaluation(tmp_path, [toy_task()], [toy_model()]).answer()

    with pytest.raises(ConfigError, match="checkpoint_sha256 differ"):
        evaluation(tmp_path, [toy_task()], [toy_model(seed=1)]).answer()
    for changes in ({"max_prompt_tokens": 99}, {"prior_correction": True}, {"max_items": 9}):
        with pytest.raises(ConfigError, match=r"(options|items) differ"):
            evaluation(tmp_path, [toy_task()], [toy_model()], **changes).answer()


def test_a_head_stands_in_records_and_another_one_is_refused(
    toy_task: Build, feature_model: Build, tmp_path: Path
) -> None:
    found = evaluation(tmp_path, [toy_task()], [feature_model()], **HEAD)
    found.answer()
    record = figures_of(found)[0]
    header = read_published(tmp_path / "predictions" / "toy.model.jsonl").header

    assert record.answer["by"] == "head"
    assert record.answer["decision"] == "argmax"
    assert record.answer["head"]["sha256"] == header["head_sha256"]
    assert record.answer["head"]["num_train"] == 30
    assert {"pooling": "last", "class_weighted": True}.items() <= header["options"].items()
    assert "prior_correction" not in header["options"]
    splits = {"train": range(100, 129), "val": range(200, 220), "test": range(23)}
    with pytest.raises(ConfigError, match="something else: head_sha256 differ"):
        evaluation(tmp_path, [toy_task(splits=splits)], [feature_model()], **HEAD).answer()
    other = HEAD | {"head": HeadOptions(pooling="mean")}
    with pytest.raises(ConfigError, match="head_sha256, options differ"):
        evaluation(tmp_path, [toy_task()], [feature_model()], **other).answer()
    with pytest.raises(ConfigError, match="head_sha256, options differ"):
        evaluation(tmp_path, [toy_task()], [feature_model()]).answer()


def test_a_head_and_its_answers_do_not_depend_on_the_test_labels(
    toy_task: Build, feature_model: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, lines = toy_task(), {}
    known = type(task).held_out
    for name in ("right", "wrong"):
        found = evaluation(
            tmp_path / name, [task], [feature_model()], decision="thresholds", **HEAD
        )
        found.answer()
        answer = figures_of(found)[0].answer
        rows = read_published(tmp_path / name / "predictions" / "toy.model.jsonl").rows
        lines[name] = answer, [(row["log_probabilities"], row["chosen"]) for row in rows]
        poison = [replace(item, label="yes", target="yes") for item in known(task).items]
        monkeypatch.setattr(type(task), "held_out", lambda _, items=poison: Items(items))

    assert lines["right"] == lines["wrong"]
    assert any(lines["right"][0]["offsets"].values())


def test_a_decision_asks_nobody_again(toy_task: Build, toy_model: Build, tmp_path: Path) -> None:
    task, model = toy_task(), toy_model()
    plain = evaluation(tmp_path, [task], [model])
    plain.answer()
    before = figures_of(plain)[0]
    fitted = evaluation(tmp_path, [task], [model], decision="thresholds")
    fitted.answer()
    after = figures_of(fitted)[0]

    assert len(model.asked) == 23 + 20
    assert not any("secret" in prompt for prompt in model.asked[23:])
    assert before.answer["decision"] == "argmax"
    assert after.answer["decision"] == "thresholds"
    assert after.answer["num_fitted"] == 20
    assert set(after.answer["offsets"]) == {"yes", "no", "maybe"}


def test_thresholds_do_not_depend_on_the_test_items(
    toy_task: Build, toy_model: Build, tmp_path: Path
) -> None:
    offsets = []
    for name, test in (("a", range(23)), ("b", range(50, 60))):
        task = toy_task(splits={"train": range(100, 130), "val": range(200, 220), "test": test})
        found = evaluation(tmp_path / name, [task], [toy_model()], decision="thresholds")
        found.answer()
        offsets.append(figures_of(found)[0].answer["offsets"])

    assert offsets[0] == offsets[1]
    assert any(offsets[0].values())


def test_the_validation_split_is_marked(toy_task: Build, toy_model: Build, tmp_path: Path) -> None:
    model = toy_model()
    found = evaluation(tmp_path, [toy_task()], [model], split="val")
    found.answer()

    assert {record.split for record in figures_of(found)} == {"val"}
    assert list(contents(tmp_path)) == ["toy.model.val.jsonl"]
    assert not any("secret" in prompt for prompt in model.asked)


@pytest.mark.parametrize("kind", [None, ChooseOption(), WriteText(5)])
def test_figures_of_restricted_items_are_the_same_and_no_text_is_kept(
    kind: Any, toy_task: Build, toy_model: Build, tmp_path: Path
) -> None:
    changes = {} if kind is None else {"kind": kind}
    records, models = {}, {}
    for access in ("open", "restricted"):
        models[access] = toy_model()
        task = toy_task(access=access, **changes)
        found = evaluation(tmp_path / access, [task], [models[access]])
        found.answer()
        figures_of(found)
        found.answer()  # continues from what was kept
        records[access] = figures_of(found)
        assert len(models[access].asked) == 23

    assert records["restricted"] == records["open"]
    (text,) = contents(tmp_path / "restricted").values()
    for item in toy_task().held_out().items:
        assert item.id not in text
        assert item.unit not in text
        assert item.parts["question"] not in text
    assert "secret" not in text
    assert "perhaps" not in text
    paths = [tmp_path / "restricted" / "predictions" / "toy.model.jsonl"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in paths] == [0o600]
    assert stat.S_IMODE(paths[0].parent.stat().st_mode) == 0o700


def test_a_line_says_what_an_item_added(toy_task: Build, toy_model: Build, tmp_path: Path) -> None:
    found = evaluation(tmp_path, [toy_task()], [toy_model()])
    found.answer()
    record = figures_of(found)[0]
    published = read_published(tmp_path / "predictions" / "toy.model.jsonl")
    items = toy_task().held_out().items

    assert [row["key"] for row in published.rows] == [item.id for item in items]
    hits = [row["columns"]["accuracy"][0] for row in published.rows]
    assert sum(hits) / 23 == record.value
    for row, item, hit in zip(published.rows, items, hits, strict=True):
        assert (row["chosen"] == row["target"] == item.label) == bool(hit)
        assert row["unit"] == item.unit
        assert row["scores"][row["chosen"]] == max(row["scores"].values())


def test_a_header_is_plain(toy_task: Build, toy_model: Build) -> None:
    header = header_of(TaskSplit(toy_task(), "test"), toy_model(), OPTIONS)

    assert json.loads(json.dumps(header)) == header
    assert "batch_size" not in json.dumps(header)


QUESTIONS = [
    {"id": f"q{n}", "body": f"Is it {n}?", "type": "yesno", "exact_answer": ["yes", "no"][n % 2]}
    | {"snippets": [{"text": f"Snippet {n}."}]}
    for n in range(24)
]


def bioasq(folder: Path, train: Sequence[Any], test: Sequence[Any], **changes: Any) -> BioASQYesNo:
    """Write the files of a task and return it."""
    for name, questions in (("train", train), ("test", test)):
        path = folder / f"{name}.json"
        path.write_text(json.dumps({"questions": list(questions)}), encoding="utf-8")
    prompt = Prompt(name="p", template="{context} {question} Answer:", shrink={"context": "right"})
    files = {f"{name}_files": [str(folder / f"{name}.json")] for name in ("train", "test")}
    return BioASQYesNo(**{**files, "prompt": prompt, "val_permille": 300, **changes})


def answered(task: Task, model: Any, folder: Path, **changes: Any) -> dict[str, Any]:
    """Answer the test split and return what was answered to each item."""
    found = evaluation(folder, [task], [model], **changes)
    found.answer()
    figures_of(found)
    rows = read_published(folder / "predictions" / "bioasq_yesno.model.jsonl").rows
    return {row["key"]: row["log_probabilities"] for row in rows}


@pytest.mark.parametrize("num_batches", [0, 1, 2])
def test_another_training_file_keeps_the_answers(
    num_batches: int, toy_model: Build, tmp_path: Path
) -> None:
    model = toy_model()
    task = bioasq(tmp_path, QUESTIONS[:10], QUESTIONS[12:])
    with pytest.raises(Killed):
        evaluation(tmp_path, [task], [Mortal(model, num_batches)]).answer()
    rng = random.Random(num_batches)
    expected = answered(task, toy_model(), tmp_path / "fresh")

    for _ in range(5):
        changed = [dict(q, body=f"{q['body']} {rng.random()}") for q in QUESTIONS[:12]]
        train = rng.sample(changed, rng.randint(4, 12))
        task = bioasq(tmp_path, train, QUESTIONS[12:])
        assert answered(task, model, tmp_path) == expected

    assert len(model.asked) == 12  # each item once, over six starts


def test_another_answer_key_of_an_open_task_keeps_the_answers(
    toy_model: Build, tmp_path: Path
) -> None:
    model, test = toy_model(), QUESTIONS[12:]
    before = answered(bioasq(tmp_path, QUESTIONS[:10], test), model, tmp_path)
    mended = [dict(test[0], exact_answer="no"), *test[1:]]

    assert answered(bioasq(tmp_path, QUESTIONS[:10], mended), model, tmp_path) == before
    assert len(model.asked) == 12
    folder = tmp_path / "restricted"
    task = bioasq(tmp_path, QUESTIONS[:10], test, access="restricted")
    evaluation(folder, [task], [model]).answer()
    task = bioasq(tmp_path, QUESTIONS[:10], mended, access="restricted")
    with pytest.raises(ConfigError, match="given to something else: items differ"):
        evaluation(folder, [task], [model]).answer()


@pytest.mark.parametrize(
    "change",
    [
        lambda test: [dict(test[0], body="Another?"), *test[1:]],
        lambda test: [dict(test[0], snippets=[{"text": "Another."}]), *test[1:]],
        lambda test: [dict(test[0], snippets=[]), *test[1:]],
        lambda test: [dict(test[0], id="another"), *test[1:]],
        lambda test: test[1:],
        lambda test: [test[1], test[0], *test[2:]],
    ],
)
def test_another_test_file_refuses_the_answers(
    change: Callable[[Any], Any], toy_model: Build, tmp_path: Path
) -> None:
    test = QUESTIONS[12:]
    answered(bioasq(tmp_path, QUESTIONS[:10], test), toy_model(), tmp_path)

    with pytest.raises(ConfigError, match="given to something else: items differ"):
        evaluation(
            tmp_path, [bioasq(tmp_path, QUESTIONS[:10], change(test))], [toy_model()]
        ).answer()


def test_every_text_that_is_asked_is_part_of_the_header(toy_task: Build, toy_model: Build) -> None:
    item = Item(
        id="a",
        parts={"question": "q", "context": "c"},
        target="t",
        options=["x", "y"],
        option_parts=[{"context": "x"}, {"context": "y"}],
        label="yes",
        references=[["r"]],
        group="g",
        facts={"year": "1999"},
    )
    asked: dict[str, Any] = {
        "id": "b",
        "parts": {"question": "q", "context": "d"},
        "options": ["x", "z"],
        "option_parts": [{"context": "x"}, {"context": "z"}],
        "target": "u",
    }
    kept: dict[str, Any] = {
        "label": "no",
        "references": [["s"]],
        "group": "h",
        "facts": {"year": "2000"},
    }
    assert {*asked, *kept} == {field.name for field in fields(Item)}

    def digest(is_restricted: bool, **changes: Any) -> str:
        return items_digest([item, replace(item, **changes)], is_restricted=is_restricted)

    for is_restricted in (False, True):
        same = digest(is_restricted)
        changed = [digest(is_restricted, **{name: value}) for name, value in asked.items()]
        assert len({same, *changed}) == len(asked) + 1
    assert {digest(False, **{name: value}) for name, value in kept.items()} == {digest(False)}
    assert len({digest(True, **{name: value}) for name, value in kept.items()}) == len(kept)


def test_a_bad_training_file_is_found_before_anything_is_asked(
    toy_task: Build, toy_model: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = toy_task()
    items = type(task).items

    def damaged(self: Task, split: str) -> Items:
        if split == "train":
            raise DataError("training.json is damaged")
        found: Items = items(self, split)
        return found

    monkeypatch.setattr(type(task), "items", damaged)
    with pytest.raises(DataError, match=r"training\.json is damaged"):
        evaluation(tmp_path, [task], [Mortal(toy_model(), 0)]).answer()

    assert not (tmp_path / "predictions").exists()
