"""Extractive readers, compared with a search over every span."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
import transformers

from biomamba.evaluation.answer_model import Passage, PassageReader, ScoreRequest
from biomamba.evaluation.models.extractive import ExtractiveReader, Windows
from biomamba.evaluation.models.loading import Pretrained
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.tasks.task import WriteText

SENTENCES = (
    "Metformin lowers the glucose of patients and is safe.",
    "Aspirin  prevents a STROKE, aspirin does not cure asthma.",
    "A stroke of the patients: maybe the answer is glucose?",
)
QUESTION = "What lowers the glucose?"
WINDOWS = Windows(length=24, overlap=6, max_answer=4)


@pytest.fixture(scope="session")
def folder(
    save_reader: Callable[[Path, list[str]], None], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("reader")
    save_reader(path, [*SENTENCES, QUESTION])
    return path


@cache
def load(folder: Path, batch_size: int = 8) -> ExtractiveReader:
    checkpoint = Pretrained.find(str(folder))
    return ExtractiveReader(checkpoint, label="reader", batch_size=batch_size, windows=WINDOWS)


def every_span(folder: Path, context: str) -> list[str]:
    """Return all texts, best first, from windows cut by hand and passed one by one."""
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    backend = transformers.AutoTokenizer.from_pretrained(folder).backend_tokenizer
    question = backend.encode(QUESTION, add_special_tokens=False).ids
    words = backend.encode(context, add_special_tokens=False)
    room = WINDOWS.length - len(question) - 3
    best: dict[str, tuple[float, str]] = {}
    begin = 0
    while True:
        ids, offsets = words.ids[begin : begin + room], words.offsets[begin : begin + room]
        row = [2, *question, 3, *ids, 3]
        kinds = [0] * (len(question) + 2) + [1] * (len(ids) + 1)
        with torch.no_grad():
            found = model(torch.tensor([row]), token_type_ids=torch.tensor([kinds]))
        shift = len(question) + 2
        for i in range(len(ids)):
            for j in range(i, min(i + WINDOWS.max_answer, len(ids))):
                score = float(found.start_logits[0, i + shift] + found.end_logits[0, j + shift])
                text = context[offsets[i][0] : offsets[j][1]]
                key = " ".join(text.casefold().split())
                best[key] = max(best.get(key, (-1e9, "")), (score, text))
        if begin + room >= len(words.ids):
            break
        begin += room - WINDOWS.overlap
    return [key for key, _ in sorted(best.items(), key=lambda pair: -pair[1][0])]


def test_candidates_are_the_best_spans_of_all_windows(folder: Path) -> None:
    context = " ".join(SENTENCES)

    found = load(folder).read([Passage(QUESTION, context)], 12)[0].candidates

    keys = [" ".join(text.casefold().split()) for text in found]
    assert keys == every_span(folder, context)[:12]
    assert len(set(keys)) == 12  # equal texts are one candidate, whatever their letters
    assert all(text in context for text in found)  # as it is written there


def test_a_text_that_stands_in_several_windows_counts_by_its_best(folder: Path) -> None:
    once, often = SENTENCES[0], " ".join([SENTENCES[0]] * 6)
    best_once = set(every_span(folder, once))

    found = load(folder).read([Passage(QUESTION, often)], 500)[0].candidates
    keys = [" ".join(text.casefold().split()) for text in found]

    assert len(keys) == len(set(keys))
    assert best_once <= set(keys)


def test_answers_do_not_depend_on_the_batch(folder: Path) -> None:
    passages = [
        Passage(QUESTION, " ".join(SENTENCES)),
        Passage("Why?", SENTENCES[1]),
        Passage("Why?", SENTENCES[2] * 3),
    ]

    together = load(folder).read(passages, 5)

    assert together == [load(folder, 1).read([passage], 5)[0] for passage in passages]


def test_nothing_is_read_in_an_empty_context(folder: Path) -> None:
    found = load(folder).read([Passage(QUESTION, " "), Passage(QUESTION, "glucose")], 3)

    assert list(found[0].candidates) == [""]
    assert list(found[1].candidates) == ["glucose"]


def test_fewer_texts_than_wanted_are_no_fault(folder: Path) -> None:
    found = load(folder).read([Passage(QUESTION, "safe safe Safe")], 9)[0].candidates

    assert sorted(" ".join(text.casefold().split()) for text in found) == [
        "safe",
        "safe safe",
        "safe safe safe",
    ]


def test_a_mark_in_a_text_is_text(folder: Path) -> None:
    found = load(folder).read([Passage(QUESTION, "safe [SEP] glucose")], 1)[0].candidates

    assert found[0] in "safe [SEP] glucose"


def test_a_question_without_room_for_its_context_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"a question has 15 tokens; .* no room") as error:
        load(folder).read([Passage("glucose " * 15, SENTENCES[0])], 1)
    assert "glucose" not in str(error.value)


def test_a_reader_answers_questions_only(folder: Path) -> None:
    reader = load(folder)
    assert isinstance(reader, PassageReader)

    with pytest.raises(ConfigError, match="factoid answers only"):
        reader.score([ScoreRequest([1], [[2]])])
    with pytest.raises(ConfigError, match="factoid answers only"):
        reader.write([[1]], WriteText(3))
