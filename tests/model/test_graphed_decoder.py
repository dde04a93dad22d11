"""Steps recorded once and repeated: on a CPU by a recording of operations, on a GPU by graphs."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from biomamba.model.backends.auto import AutoScan
from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.config import Mamba1Config, Mamba2Config
from biomamba.model.cuda_graphs import CudaCapture, GraphedDecoder, make_decoder
from biomamba.model.decoder import Decoder
from biomamba.model.generation import Generation, GenerationOptions, Sampling, Vocabulary
from biomamba.model.language_model import MambaLM
from biomamba.runtime.errors import ConfigError

Draw = Callable[..., Tensor]
PROMPTS = [[5, 1, 9], [2], [7, 7, 30, 4], [11, 3], [8]]
VOCABULARY = Vocabulary(37, None)


@pytest.fixture(params=["mamba1", "mamba2"])
def model(request: pytest.FixtureRequest, tiny_model: MambaLM) -> MambaLM:
    if request.param == "mamba2":
        return tiny_model
    config = Mamba1Config(d_model=16, n_layer=2, vocab_size=37, d_state=8)
    return MambaLM(config, ChunkedScan(8)).double()


@pytest.fixture
def graphed(model: MambaLM, recording_capture: Any) -> GraphedDecoder:
    return GraphedDecoder(model, capture=recording_capture)


@pytest.mark.parametrize("num_rows", [1, 2, 3, 4])
def test_replayed_steps_are_ordinary_ones(
    model: MambaLM, graphed: GraphedDecoder, num_rows: int, random_ids: Draw
) -> None:
    ids, plain = random_ids(num_rows, 16), Decoder(model)
    states = model.hidden(ids[:, :5])[1]
    for decoder in (plain, graphed):
        decoder.load(states)
    for position in range(5, 16):
        torch.testing.assert_close(
            graphed.step(ids[:, position]), plain.step(ids[:, position]), rtol=1e-12, atol=1e-12
        )
    torch.testing.assert_close(graphed.states(), plain.states(), rtol=1e-12, atol=1e-12)


def test_recorded_once_per_power_of_two_and_repeated_at_every_position(
    graphed: GraphedDecoder, recording_capture: Any, random_ids: Draw
) -> None:
    ids = random_ids(5, 3)
    for num_rows in (3, 4, 1, 3, 5):
        graphed.load(graphed.model.initial_states(num_rows))
        for position in range(3):
            graphed.step(ids[:num_rows, position])
    # 4 rows (for 3, 4 and 3), 1 row, 8 rows
    assert [each.replays for each in recording_capture.recordings] == [9, 3, 3]


@pytest.mark.parametrize("rows", [[2, 0, 1], [4], [1, 0], [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]], ids=str)
def test_rows_leave_return_and_multiply(
    model: MambaLM, graphed: GraphedDecoder, rows: list[int], random_ids: Draw
) -> None:
    """As rows that end do (fewer), and the hypotheses of a beam (more, several of one)."""
    ids, plain = random_ids(5, 12), Decoder(model)
    states = model.hidden(ids[:, :4])[1]
    for decoder in (plain, graphed):
        decoder.load(states)
        decoder.step(ids[:, 4])
        decoder.keep(rows)
    for position in range(5, 12):
        torch.testing.assert_close(
            graphed.step(ids[rows, position]), plain.step(ids[rows, position])
        )
    torch.testing.assert_close(graphed.states(), plain.states())


def test_logits_stay_when_the_next_step_is_taken(graphed: GraphedDecoder, random_ids: Draw) -> None:
    graphed.load(graphed.model.initial_states(2))
    first = graphed.step(random_ids(2))
    before = first.clone()
    graphed.step(random_ids(2) + 1)
    assert torch.equal(first, before)


def test_texts_are_those_without_graphs(model: MambaLM, graphed: GraphedDecoder) -> None:
    """Sampled, with rows that end at different times, twice with the same graphs."""
    options = GenerationOptions(max_new_tokens=9, sampling=Sampling(temperature=1.0, top_k=9))
    expected = generated(Decoder(model), options)
    assert [len(ids) for ids in expected] == [3, 5, 7, 9, 9]
    assert generated(graphed, options) == expected
    assert generated(graphed, options) == expected


def generated(decoder: Decoder, options: GenerationOptions) -> list[list[int]]:
    """Let row n end after 3 + 2 n ids, the last ones by the length."""
    generation = Generation(decoder, PROMPTS, options, VOCABULARY, range(5))
    found: list[list[int]] = [[] for _ in PROMPTS]
    while not generation.is_finished:
        for row, token in generation.advance().items():
            found[row].append(token)
            if len(found[row]) == 3 + 2 * row:
                generation.stop(row, "stop")
    return found


class Failing:
    """A capture that fails from the given call on."""

    def __init__(self, capture: Any, at: int) -> None:
        self.capture, self.left = capture, at

    def __call__(self, work: Callable[[], None], device: torch.device) -> Any:
        if not self.left:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.left -= 1
        return self.capture(work, device)


@pytest.mark.parametrize("at", [0, 1])
def test_a_failed_recording_is_logged_and_the_rest_goes_without(
    model: MambaLM, recording_capture: Any, at: int, caplog: pytest.LogCaptureFixture
) -> None:
    """At the first load, or in the middle of a generation when fewer rows are left."""
    options = GenerationOptions(max_new_tokens=9)
    decoder = GraphedDecoder(model, capture=Failing(recording_capture, at))
    with caplog.at_level(logging.WARNING):
        found = generated(decoder, options)
    assert found == generated(Decoder(model), options)
    (message,) = caplog.messages
    assert "without CUDA graphs" in message
    assert "operation not permitted when stream is capturing" in message


def test_a_required_recording_that_fails_is_an_error(
    model: MambaLM, recording_capture: Any
) -> None:
    decoder = GraphedDecoder(model, capture=Failing(recording_capture, 0), is_required=True)
    with pytest.raises(ConfigError, match=r"generation.cuda_graph=true, but .* cannot be recorded"):
        decoder.load(model.initial_states(2))


def test_on_a_cpu_auto_goes_without_and_true_is_refused(
    model: MambaLM, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert type(make_decoder(model)) is Decoder
    assert caplog.messages == ["generation without CUDA graphs: the model is on cpu"]
    assert type(make_decoder(model, cuda_graph=False)) is Decoder
    with pytest.raises(ConfigError, match="cuda_graph=true: the model is on cpu, and only a GPU"):
        make_decoder(model, cuda_graph=True)


def test_a_wrong_choice_is_named() -> None:
    with pytest.raises(ValueError, match="cuda_graph='always': must be auto, true or false"):
        GenerationOptions(max_new_tokens=1, cuda_graph="always")


def test_work_is_warmed_up_beside_and_then_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of calls to torch.cuda, which has no stand-in for what they do."""
    said: list[str] = []
    monkeypatch.setattr(torch, "cuda", FakeCuda(said))
    capture = CudaCapture()
    for _ in range(2):
        replay = capture(lambda: said.append("work"), torch.device("cuda:1"))
    replay()
    one = ["side waits for main", "in side", *["work"] * 3, "main waits for side"]
    assert said == [*one, "record None", "work", *one, "record pool", "work", "replay"]


class FakeCuda:
    """What `CudaCapture` calls of torch.cuda; appends to `said`."""

    def __init__(self, said: list[str]) -> None:
        self.said = said

    def Stream(self) -> "FakeStream":  # noqa: N802
        return FakeStream("side", self.said)

    def current_stream(self) -> "FakeStream":
        return FakeStream("main", self.said)

    def device(self, device: torch.device) -> Any:
        assert device.index == 1
        return FakeStream("", [])

    def stream(self, stream: "FakeStream") -> Any:
        self.said.append(f"in {stream.name}")
        return stream

    def CUDAGraph(self) -> "FakeCuda":  # noqa: N802
        return self

    def pool(self) -> Any:
        return "pool"

    def graph(self, graph: Any, pool: Any, capture_error_mode: str) -> Any:
        assert capture_error_mode == "thread_local"
        self.said.append(f"record {pool}")
        return FakeStream("", [])

    def replay(self) -> None:
        self.said.append("replay")


class FakeStream:
    def __init__(self, name: str, said: list[str]) -> None:
        self.name, self.said = name, said

    def wait_stream(self, other: "FakeStream") -> None:
        self.said.append(f"{self.name} waits for {other.name}")

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
@pytest.mark.parametrize("num_rows", [1, 3, 4])
def test_graphs_of_a_gpu_give_the_logits_of_ordinary_steps(
    num_rows: int, dtype: torch.dtype | None, random_ids: Draw
) -> None:
    config = Mamba2Config(d_model=64, n_layer=3, vocab_size=37, d_state=16, headdim=16)
    model = MambaLM(config, AutoScan()).cuda()
    ids = random_ids(num_rows, 20).cuda()
    plain, graphed = Decoder(model, dtype), GraphedDecoder(model, dtype, is_required=True)
    states = model.hidden(ids[:, :4])[1]
    for decoder in (plain, graphed):
        decoder.load(states)
    # Other numbers of rows may take other kernels; products round at 2^-24 or 2^-9.
    tolerance = 1e-5 if dtype is None else 2**-6
    for position in range(4, 20):
        if position == 10 and num_rows > 2:
            ids = ids[[2, 0]]
            for decoder in (plain, graphed):
                decoder.keep([2, 0])
        torch.testing.assert_close(
            graphed.step(ids[:, position]),
            plain.step(ids[:, position]),
            rtol=tolerance,
            atol=tolerance,
        )


@pytest.mark.gpu
def test_graphs_of_a_gpu_give_the_texts_of_ordinary_steps_for_any_block(
    model: MambaLM,
) -> None:
    options, model = GenerationOptions(max_new_tokens=9), model.cuda()
    graphed = GraphedDecoder(model, is_required=True)
    assert generated(graphed, options) == generated(Decoder(model), options)
    with torch.inference_mode():
        assert generated(graphed, options) == generated(Decoder(model), options)
