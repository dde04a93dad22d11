"""All points of a file: each once, in turns, and none lost."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from biomamba.timing import session
from biomamba.timing.records import (
    EFFICIENCY_FILE,
    EfficiencyRecord,
    EfficiencySettings,
    Point,
    RecordFile,
)
from biomamba.timing.session import Bench, measure

CONDITIONS = {"repeats": 3}
ORIGIN: dict[str, Any] = {"machine": {}, "versions": {}}
LENGTHS = [64, 128, 256]


class FakeSubject:
    """Time grows as length ** power; from a length on there is no memory."""

    num_parameters = 10

    def __init__(self, name: str, power: float, ends_at: int | None = None) -> None:
        self.shape: dict[str, Any] = {}
        self.name, self.power, self.ends_at = name, power, ends_at

    def operations(self, point: Point, new_tokens: int) -> float:
        return 1e6 * point.tokens


class Room:
    """A bench whose clock is moved by fake work, which is noted."""

    def __init__(
        self, folder: Path, clock: Any, meter: Any, timed_task: Callable[..., Any]
    ) -> None:
        self.path, self.clock, self.meter = folder / EFFICIENCY_FILE, clock, meter
        self.made: list[tuple[str, Point]] = []
        self.built: list[tuple[str, str]] = []
        self.said: list[str] = []
        self._timed_task = timed_task
        self.subjects = [FakeSubject("ours", 1.0), FakeSubject("theirs", 2.0)]

    def make_task(self, subject: Any, training: Any, point: Point, settings: Any) -> Any:
        self.made.append((subject.name, point))
        if subject.ends_at is not None and point.length >= subject.ends_at:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self._timed_task(1e-3 * point.length**subject.power)

    def maker(self, subject: FakeSubject) -> Callable[[str], Any]:
        def make(phase: str) -> FakeSubject:
            self.built.append((subject.name, phase))
            return subject

        return make

    def measure(self, **changes: Any) -> list[EfficiencyRecord]:
        values: dict[str, Any] = {"phases": ["prefill"], "lengths": LENGTHS, "batches": [1]}
        values |= {"repeats": 3, "product_size": 4, **changes}
        bench = Bench(
            settings=EfficiencySettings(**values),
            device=torch.device("cpu"),
            clock=self.clock,
            memory=self.meter,
            conditions=CONDITIONS,
            provenance=ORIGIN,
            say=self.said.append,
        )
        file = RecordFile(self.path, CONDITIONS, ORIGIN, overwrite=False)
        measure(bench, {each.name: self.maker(each) for each in self.subjects}, file)
        return file.records


@pytest.fixture
def room(
    tmp_path: Path,
    clock: Any,
    meter: Any,
    timed_task: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> Room:
    found = Room(tmp_path, clock, meter, timed_task)

    class Product:
        operations = 5e6

        def __init__(self, *_: Any) -> None:
            self._task = timed_task(2.0)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._task, name)

    monkeypatch.setattr(session, "make_task", found.make_task)
    monkeypatch.setattr(session, "ProductTask", Product)
    return found


def test_every_point_is_measured_for_both_models(room: Room) -> None:
    records = room.measure()

    assert [(r.model, r.length) for r in records] == [
        (name, length) for length in LENGTHS for name in ("ours", "theirs")
    ]
    for record in records:
        power = 1 if record.model == "ours" else 2
        seconds = 1e-3 * record.length**power
        assert record.seconds == pytest.approx([seconds] * 3)
        assert record.tokens_per_second == pytest.approx(record.length / seconds)
        assert record.peak_operations_per_second == pytest.approx(2.5e6)
        assert record.utilisation == pytest.approx(1e6 * record.length / seconds / 2.5e6)
        assert (record.held_bytes, record.growth_bytes, record.memory_bytes) == (7, 100, 107)


def test_nothing_is_measured_twice(room: Room) -> None:
    first = room.measure()
    room.made.clear()
    room.built.clear()

    assert room.measure() == first
    assert (room.made, room.built) == ([], [])
    assert room.said[-1].startswith("3 of 3 points are in")


def test_only_what_is_new_is_added(room: Room) -> None:
    first = room.measure(lengths=[64])
    room.made.clear()
    records = room.measure(lengths=[64, 128], phases=["prefill", "decode"])

    assert records[:2] == first
    assert [(name, p.phase, p.length) for name, p in room.made] == [
        ("ours", "prefill", 128),
        ("theirs", "prefill", 128),
        ("ours", "decode", 64),
        ("theirs", "decode", 64),
        ("ours", "decode", 128),
        ("theirs", "decode", 128),
    ]
    assert {r.new_tokens for r in records if r.phase == "decode"} == {32}


def test_what_was_measured_stays_when_the_next_point_fails(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_task = room.make_task

    def fail_later(subject: Any, training: Any, point: Point, settings: Any) -> Any:
        if point.length == 256:
            raise RuntimeError("a defect")
        return make_task(subject, training, point, settings)

    monkeypatch.setattr(session, "make_task", fail_later)
    with pytest.raises(RuntimeError, match="a defect"):
        room.measure()
    monkeypatch.setattr(session, "make_task", make_task)
    room.made.clear()

    assert len(room.measure()) == 6
    assert [point.length for _, point in room.made] == [256, 256]


def test_a_length_without_memory_is_recorded_and_longer_ones_are_not_tried(room: Room) -> None:
    room.subjects[1].ends_at = 128
    records = {(r.model, r.length): r for r in room.measure()}

    assert records["theirs", 64].failure is None
    assert records["theirs", 128].failure == "CUDA out of memory."
    failure = "not tried: 128 tokens did not fit into memory"
    assert records["theirs", 256].failure == failure
    assert records["theirs", 128].seconds == []
    assert all(records["ours", length].failure is None for length in LENGTHS)
    assert ("theirs", Point("prefill", 1, 256)) not in room.made
    assert "theirs out of memory" in room.said[-1]


def test_shorter_lengths_are_tried_after_longer_ones_failed(room: Room) -> None:
    room.subjects[1].ends_at = 128
    room.measure(lengths=[128])
    records = {(r.model, r.length): r for r in room.measure()}

    assert records["theirs", 64].failure is None
    assert records["theirs", 256].failure is not None


def test_a_model_that_does_not_fit_at_all_is_recorded_at_every_length(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = room.maker

    def make(subject: FakeSubject) -> Callable[[str], Any]:
        def fail(_: str) -> Any:
            raise torch.OutOfMemoryError("no room for weights")

        return fail if subject.name == "theirs" else maker(subject)

    monkeypatch.setattr(room, "maker", make)
    records = [r for r in room.measure() if r.model == "theirs"]

    assert records[0].failure == "no room for weights"
    assert all(r.failure is not None for r in records)
    assert len(records) == 3


def test_the_time_that_is_left_is_told(room: Room) -> None:
    room.measure()

    assert len(room.said) == 3
    assert "left" in room.said[0]
    assert room.said[0].startswith("prefill 1 x 64: ours 64.0 ms, 1,000 tokens/s; theirs 4,096.0")
    assert room.said[-1].endswith("about 0:00:00 left")


def test_training_is_built_once_per_model(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    monkeypatch.setattr(session, "Training", lambda subject, *_: built.append(subject.name))
    room.measure(phases=["train", "decode"])

    assert built == ["ours", "theirs"]
    assert room.built == [(n, p) for p in ("train", "decode") for n in ("ours", "theirs")]
