"""The data of a fine-tuning run: an exact stream of the samples of tasks."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from biomamba.data.batches import Batch
from biomamba.data.document import document_key
from biomamba.data.packing import BestFit, Concat, SingleDocument
from biomamba.data.tokenizer import Tokenizer
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.tasks.instruct import InstructBudget, InstructDataModule, LabelBalance, open_tokenizer
from biomamba.tasks.instruct_samples import SampleRules
from biomamba.tasks.prompt import Item, Items, Prompt
from biomamba.tasks.task import Answer, ChooseLabel, Task

TOKENIZER = Tokenizer.byte_tokenizer()
EOD = TOKENIZER.eod_id
BUDGET = InstructBudget(epochs=2, tokens_per_step=8 * 64, seq_len=64, micro_batch_size=2)


class Counting(Task):
    """Questions of different lengths; every fourth answer is no."""

    protocol, access = "none", "open"
    files: Any = {"made up": "0"}  # type: ignore[assignment]  # noqa: RUF012

    def __init__(self, name: str, num_train: int, num_val: int = 6, cue: str = "A:") -> None:
        self.name = name
        self.prompt = Prompt(name="p", template="{question}\n" + cue, shrink={"question": "left"})
        self.num_items = {"train": num_train, "val": num_val}

    @property
    def answer(self) -> Answer:
        return ChooseLabel(["yes", "no"])

    def items(self, split: str) -> Items:
        return Items([self.item(split, number) for number in range(self.num_items[split])])

    def item(self, split: str, number: int) -> Item:
        label = "yes" if number % 4 else "no"
        question = f"{number} " + "x" * (number * 7 % 50)
        name = f"{self.name}-{split}-{number}"
        return Item(id=name, parts={"question": question}, target=label, label=label)

    def held_out(self) -> Items:
        raise AssertionError("the test split was asked for")

    def measures(self, items: Any, predictions: Any) -> Any:
        raise NotImplementedError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    TOKENIZER.save(tmp_path / "tokenizer.json")
    return tmp_path


def make(folder: Path, **changes: Any) -> InstructDataModule:
    options: dict[str, Any] = {
        "tasks": {"first": Counting("first", 40), "second": Counting("second", 13)},
        "tokenizer": str(folder),
        "packing": BestFit(),
        "budget": BUDGET,
        "samples": SampleRules(max_target_tokens=6),
        "balance": LabelBalance(),
        "seed": 1,
    }
    return InstructDataModule(**(options | changes))


def all_steps(data: InstructDataModule, rank: int = 0, world_size: int = 1) -> list[list[Batch]]:
    steps = data.steps(rank=rank, world_size=world_size)
    return [steps[step] for step in range(data.budget.num_steps)]


def samples_in(steps: list[list[Batch]]) -> Counter[int]:
    keys = [int(key) for step in steps for batch in step for key in batch.pieces["key"]]
    return Counter(keys)


def joined(parts: list[Batch]) -> dict[str, torch.Tensor]:
    names = ("input_ids", "targets", "seq_idx", "source", "row_ids", "weights", "num_bytes")
    return {name: torch.cat([getattr(part, name) for part in parts]) for name in names}


def test_an_epoch_holds_every_sample_once(folder: Path) -> None:
    data = make(folder)
    rows = data.rows_per_epoch
    epoch: Counter[int] = Counter()
    for batch in (part for step in all_steps(data) for part in step):
        in_epoch = batch.row_ids.numpy()[batch.pieces["row"]] < rows
        epoch.update(batch.pieces["key"][in_epoch].tolist())
    names = [f"first-train-{n}" for n in range(40)] + [f"second-train-{n}" for n in range(13)]

    assert epoch == Counter(document_key(name) for name in names)


def test_a_packed_row_holds_its_samples_apart_and_learns_their_answers_alone(folder: Path) -> None:
    learned: set[str] = set()
    for batch in (part for step in all_steps(make(folder)) for part in step):
        for row in range(len(batch.targets)):
            for piece in batch.seq_idx[row].unique().tolist():
                here = batch.seq_idx[row] == piece
                inputs, targets = batch.input_ids[row][here], batch.targets[row][here]
                if piece == int((batch.pieces["row"] == row).sum()):  # the padded end
                    assert (targets == -100).all()
                    continue
                assert inputs[0] == EOD
                is_target = targets >= 0
                answer = TOKENIZER.decode(targets[is_target].tolist())
                prompt = TOKENIZER.decode(inputs[~is_target].tolist()).removeprefix("<|endoftext|>")
                # The cue is read up to its last token; the first target comes after it.
                assert (prompt + TOKENIZER.decode([int(inputs[is_target][0])])).endswith("\nA:")
                learned.add(answer)

    assert learned == {" yes<|endoftext|>", " no<|endoftext|>"}


@pytest.mark.parametrize(("world_size", "micro_batch_size"), [(1, 4), (2, 1), (2, 4), (4, 2)])
def test_steps_depend_on_neither_ranks_nor_micro_batches(
    folder: Path, world_size: int, micro_batch_size: int
) -> None:
    alone = all_steps(make(folder))
    data = make(folder, budget=replace(BUDGET, micro_batch_size=micro_batch_size))
    ranks = [all_steps(data, rank, world_size) for rank in range(world_size)]
    for step, expected in enumerate(alone):
        found = joined([part for rank in ranks for part in rank[step]])
        for name, value in joined(expected).items():
            assert torch.equal(found[name], value), name


def test_a_resumed_run_sees_the_steps_of_an_uninterrupted_one(folder: Path) -> None:
    whole, resumed = make(folder), make(folder)
    state = {"consumed_steps": 3, "fingerprint": whole.fingerprint}
    resumed.load_state_dict(state)
    expected = [joined(step) for step in whole.train_dataloader()][3:]
    found = [joined(step) for step in resumed.train_dataloader()]

    assert len(found) == len(expected) > 0
    for mine, wanted in zip(found, expected, strict=True):
        for name in wanted:
            assert torch.equal(mine[name], wanted[name])


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 2},
        {"packing": SingleDocument()},
        {"samples": SampleRules(max_target_tokens=20)},  # shortens prompts
        {"balance": LabelBalance(class_weighted=True)},
        {"balance": LabelBalance(ratios={"first": {"yes": 1, "no": 1}})},
        {"shares": {"first": 0.5, "second": 0.5}},
        {"budget": replace(BUDGET, tokens_per_step=4 * 64)},
        {"tasks": {"first": Counting("first", 40), "second": Counting("second", 14)}},
        {"tasks": {"first": Counting("first", 40, 7), "second": Counting("second", 13)}},
        {"tasks": {"first": Counting("first", 40, cue="B:"), "second": Counting("second", 13)}},
        {"tasks": {"second": Counting("second", 13), "first": Counting("first", 40)}},
    ],
)
def test_a_checkpoint_of_another_stream_is_refused(folder: Path, changes: dict[str, Any]) -> None:
    state = make(folder).state_dict()
    with pytest.raises(DataError, match="another stream of rows"):
        make(folder, **changes).load_state_dict(state)


def test_the_same_run_has_the_same_fingerprint_wherever_its_tokenizer_lies(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other") / "tokenizer.json"
    TOKENIZER.save(other)

    assert make(folder).fingerprint == make(folder, tokenizer=str(other)).fingerprint


def test_shares_hold_and_repetition_is_told(folder: Path) -> None:
    data = make(folder, shares={"first": 0.4, "second": 0.6}, packing=SingleDocument())
    found = samples_in(all_steps(data))
    of_first = sum(found[document_key(f"first-train-{n}")] for n in range(40))

    # 40 / 0.4 = 100 samples are an epoch; two of them are 25 steps of eight.
    assert data.rows_per_epoch == 100
    assert data.budget.num_steps == 25
    assert of_first == 80
    exposures = data.exposures
    assert exposures["first"].epochs == 2
    assert exposures["second"].epochs == pytest.approx(120 / 13)


def test_too_much_repetition_is_refused(folder: Path) -> None:
    data = make(folder, shares={"first": 0.1, "second": 0.9}, max_repetition=4)
    with pytest.raises(ConfigError, match="max_repetition is 4"):
        data.setup()


def test_a_task_without_a_share_is_validated_and_needs_no_training_items(folder: Path) -> None:
    tasks = {"first": Counting("first", 40), "second": Counting("second", 0)}
    data = make(folder, tasks=tasks, shares={"first": 1.0, "second": 0.0})

    assert data.source_weights == {"first": 1.0, "second": 0.0}
    validated = sum(batch.num_target_tokens for batch in data.val_dataloader()[1])
    # Items 0 and 4 of the six say no: " no" and the end, the others " yes" and the end.
    assert validated == 2 * 4 + 4 * 5


def test_every_task_is_validated_on_its_own_items(folder: Path) -> None:
    data = make(folder)
    for index, (name, loader) in enumerate(
        zip(data.source_names, data.val_dataloader(), strict=True)
    ):
        batches = list(loader)
        keys = {int(key) for batch in batches for key in batch.pieces["key"]}
        assert keys == {document_key(f"{name}-val-{n}") for n in range(6)}
        assert {int(s) for batch in batches for s in batch.source} == {index}
        # Bytes of the answers: what bits per byte count.
        assert sum(int(batch.num_bytes.sum()) for batch in batches) == 2 * 2 + 4 * 3


def test_class_weights_reach_the_targets_and_leave_the_mean_at_one(folder: Path) -> None:
    data = make(
        folder, balance=LabelBalance(class_weighted=True), tasks={"first": Counting("first", 40)}
    )
    by_answer: dict[str, list[float]] = {}
    for batch in (part for step in all_steps(data) for part in step):
        assert batch.weights is not None
        for row, piece in {(int(p["row"]), int(n)) for p, n in _numbered(batch.pieces)}:
            here = (batch.seq_idx[row] == piece) & (batch.targets[row] >= 0)
            answer = TOKENIZER.decode(batch.targets[row][here].tolist())
            weights = batch.weights[row][here].unique()
            by_answer.setdefault(answer, []).append(float(weights))

    # Ten of 40 are no: 40 / (2 * 10) = 2 and 40 / (2 * 30) = 2 / 3.
    assert set(by_answer[" no<|endoftext|>"]) == {2.0}
    (of_yes,) = set(by_answer[" yes<|endoftext|>"])
    assert of_yes == pytest.approx(2 / 3, abs=2**-12)
    # Validation knows no weights.
    assert all(set(b.weights.unique().tolist()) <= {0.0, 1.0} for b in data.val_dataloader()[0])


def _numbered(pieces: np.ndarray[Any, Any]) -> list[tuple[Any, int]]:
    numbers: Counter[int] = Counter()
    found = []
    for piece in pieces:
        found.append((piece, numbers[int(piece["row"])]))
        numbers[int(piece["row"])] += 1
    return found


def test_the_record_tells_what_was_learned(folder: Path) -> None:
    balance = LabelBalance(ratios={"first": {"yes": 1, "no": 1}}, class_weighted=True)
    told = make(folder, balance=balance).description
    first: Mapping[str, Any] = told["tasks"]["first"]

    assert json.loads(json.dumps(told)) == told
    assert first["train"]["labels"] == {"no": 10, "yes": 10}
    assert first["train"]["rejects"] == {"surplus of a label": 20}
    assert first["train"]["num_items"] == 40
    assert first["label_weights"] == {"no": 1.0, "yes": 1.0}
    assert first["files"] == {"made up": "0"}
    assert told["max_prompt_tokens"] == 58


def test_what_became_of_the_items_is_said_without_their_texts(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(folder)
    said = capsys.readouterr().err

    assert "first: 40 samples (no 10, yes 30)" in said
    assert "xxx" not in said


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"tasks": {}}, r"task=\[\.\.\.\]"),
        ({"shares": {"first": 1.0}}, r"shares names \['first'\]"),
        ({"shares": {"first": 0.0, "second": 0.0}}, "give a share to a task"),
        ({"shares": {"first": 0.5, "second": 0.6}}, r"weights sum to 1\.1"),
        ({"packing": Concat()}, "Concat cuts samples"),
        ({"balance": LabelBalance(ratios={"third": {"yes": 1, "no": 1}})}, r"names \['third'\]"),
        ({"tokenizer": None}, "data.tokenizer is null"),
    ],
)
def test_impossible_settings_are_refused(folder: Path, changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make(folder, **changes)


def test_the_tokenizer_is_written_beside_the_model(folder: Path) -> None:
    data = make(folder)
    data.save_tokenizer(folder / "model" / "tokenizer.json")

    assert Tokenizer.load(str(folder / "model" / "tokenizer.json")).fingerprint == (
        data.tokenizer_fingerprint
    )
    assert data.vocab_size == 257


def test_a_folder_without_a_tokenizer_says_where_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"tokenizer\.json does not exist"):
        open_tokenizer(str(tmp_path))
