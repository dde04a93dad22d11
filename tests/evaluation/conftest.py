"""A task and a model small enough to know every answer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256

import numpy as np
import pytest
from numpy.typing import NDArray

from biomamba.data.tokenizer import Tokenizer
from biomamba.evaluation.answer_model import ScoreRequest, Written
from biomamba.metrics.measure import Measure, mean, proportion, ratio
from biomamba.tasks.prompt import Item, Items, Prompt
from biomamba.tasks.task import Answer, ChooseLabel, ChooseOption, Prediction, Task, WriteText

LABELS = ("yes", "no", "maybe")
PROMPT = Prompt(
    name="toy-v1",
    template="Context: {context}\nQuestion: {question}\nAnswer:",
    shrink={"context": "right"},
)
SPLITS = {"train": range(100, 130), "val": range(200, 220), "test": range(23)}


def digest(*parts: object) -> int:
    return int.from_bytes(sha256(repr(parts).encode()).digest()[:6], "big")


@dataclass(frozen=True, kw_only=True)
class ToyTask(Task):
    """Questions about numbers; texts of test items hold the word `secret`."""

    kind: Answer = ChooseLabel(LABELS)  # noqa: RUF009
    name: str = "toy"
    protocol: str = "toy-3way"
    prompt: Prompt = PROMPT
    access: str = "open"
    splits: Mapping[str, Sequence[int]] = field(default_factory=lambda: dict(SPLITS))

    @property
    def answer(self) -> Answer:
        return self.kind

    def items(self, split: str) -> Items:
        return Items([self._item(n, split) for n in self.splits[split]])

    def held_out(self) -> Items:
        return Items([self._item(n, "test") for n in self.splits["test"]])

    def measures(
        self, items: Sequence[Item], predictions: Sequence[Prediction]
    ) -> Sequence[Measure]:
        texts = [prediction.text for prediction in predictions]
        hits = [text == item.target for text, item in zip(texts, items, strict=True)]
        lengths = np.array([float(len(text)) for text in texts])
        measures = [proportion("accuracy", np.array(hits)), mean("length", lengths)]
        if any("1" in item.id for item in items):  # a measure that not all items take part in
            ones = np.array([float("1" in item.id) for item in items])
            measures.append(ratio("ones", ones, ones))
        return measures

    @property
    def files(self) -> Mapping[str, str]:
        return {"toy.json": "f" * 64}

    def _item(self, number: int, split: str) -> Item:
        label = LABELS[digest("label", number) % 3]
        word = "secret" if split == "test" else "known"
        return Item(
            id=f"{split}-{number}",
            parts={"question": f"Is it {number}?", "context": f"{word} words " * (number % 5)},
            target=label,
            label=label if isinstance(self.kind, ChooseLabel) else None,
            options=LABELS if isinstance(self.kind, ChooseOption) else (),
            group=f"{split} patient {number // 2}" if isinstance(self.kind, WriteText) else None,
        )


@dataclass
class ToyModel:
    """Scores and texts are hashes of what is asked; `asked` counts the prompts."""

    label: str = "model"
    seed: int = 0
    max_tokens: int | None = None
    checkpoint: str = "runs/toy/model"
    tokenizer: Tokenizer = field(default_factory=Tokenizer.byte_tokenizer)
    asked: list[str] = field(default_factory=list)

    @property
    def checkpoint_sha256(self) -> str:
        return sha256(f"weights {self.seed}".encode()).hexdigest()

    def score(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        return list(self._scores(requests))

    def _scores(self, requests: Sequence[ScoreRequest]) -> Iterator[list[float]]:
        for request in requests:
            prompt = self.tokenizer.decode(request.prompt_ids)
            self.asked.append(prompt)
            yield [
                -1 - digest(self.seed, prompt, self.tokenizer.decode(answer)) % 1000 / 100
                for answer in request.answers
            ]

    def write(self, prompts: Sequence[Sequence[int]], options: WriteText) -> list[Written]:
        texts = [self.tokenizer.decode(prompt) for prompt in prompts]
        self.asked += texts
        words = [" Yes.", " no", " perhaps", "", " maybe"]
        return [
            Written([words[digest(self.seed, text) % len(words)]][: options.num_candidates], "eos")
            for text in texts
        ]


@pytest.fixture
def toy_task() -> Callable[..., Task]:
    """Return a function that builds the task with other fields."""
    return lambda **changes: replace(ToyTask(), **changes)


@pytest.fixture
def toy_model() -> Callable[..., ToyModel]:
    """Return a function that builds the model."""
    return ToyModel


@dataclass
class FeatureToyModel(ToyModel):
    """Shows hidden states too: hashes of the prompt and the pooling."""

    def features(self, prompts: Sequence[Sequence[int]], pooling: str) -> NDArray[np.float64]:
        texts = [self.tokenizer.decode(prompt) for prompt in prompts]
        self.asked += texts
        rows = [
            [digest(self.seed, text, pooling, n) % 1000 / 100 for n in range(4)] for text in texts
        ]
        return np.array(rows)


@pytest.fixture
def feature_model() -> Callable[..., FeatureToyModel]:
    """Return a function that builds the model that shows its hidden states."""
    return FeatureToyModel
