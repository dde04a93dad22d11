from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from biomamba.model.language_model import MambaLM
from biomamba.model.segments import STATES, Segments, hidden_by_segment

Draw = Callable[..., Tensor]
# The documents start at 0, 3, 8, 16 and 17: on a cut, after one and before one.
LENGTHS = (3, 5, 8, 1, 6)
LENGTH = sum(LENGTHS)


@pytest.fixture
def seq_idx() -> Tensor:
    """Two rows of documents, the second one whole."""
    first = torch.arange(len(LENGTHS)).repeat_interleave(torch.tensor(LENGTHS))
    return torch.stack([first, torch.zeros_like(first)]).int()


def in_segments(model: MambaLM, ids: Tensor, seq_idx: Tensor, segments: Segments) -> Tensor:
    parts = list(hidden_by_segment(model, ids, seq_idx, segments))
    assert [here.start for here, _ in parts] == list(range(0, LENGTH, segments.tokens))
    return torch.cat([hidden for _, hidden in parts], dim=1)


@pytest.mark.parametrize("tokens", [1, 2, 5, 8, LENGTH, 100])
def test_segments_with_reset_states_equal_the_uncut_row(
    tiny_model: MambaLM, random_ids: Draw, seq_idx: Tensor, tokens: int
) -> None:
    ids = random_ids(2, LENGTH)
    with torch.no_grad():
        whole, _ = tiny_model.hidden(ids, seq_idx)
        found = in_segments(tiny_model, ids, seq_idx, Segments(tokens))
    torch.testing.assert_close(found, whole)


def test_carried_states_know_no_documents(
    tiny_model: MambaLM, random_ids: Draw, seq_idx: Tensor
) -> None:
    ids = random_ids(2, LENGTH)
    with torch.no_grad():
        whole, _ = tiny_model.hidden(ids)
        found = in_segments(tiny_model, ids, seq_idx, Segments(5, "carry"))
    torch.testing.assert_close(found, whole)


def test_zero_states_make_every_segment_a_row_of_its_own(
    tiny_model: MambaLM, random_ids: Draw, seq_idx: Tensor
) -> None:
    ids = random_ids(2, LENGTH)
    parts = zip(ids.split(5, dim=1), seq_idx.split(5, dim=1), strict=True)
    with torch.no_grad():
        rows = [tiny_model.hidden(part, documents)[0] for part, documents in parts]
        found = in_segments(tiny_model, ids, seq_idx, Segments(5, "zero"))
    torch.testing.assert_close(found, torch.cat(rows, dim=1))


@pytest.mark.parametrize(("state", "kept"), [("reset", [2, 2, 0]), ("zero", [0, 0, 0])])
def test_states_are_kept_only_for_a_segment_to_come(
    tiny_model: MambaLM, random_ids: Draw, state: str, kept: list[int]
) -> None:
    found = []
    hidden = tiny_model.hidden

    def recorded(*tensors: Tensor, **options: bool) -> object:
        found.append(hidden(*tensors, **options))
        return found[-1]

    tiny_model.hidden = recorded  # type: ignore[assignment]
    ids = random_ids(1, 20)
    list(hidden_by_segment(tiny_model, ids, torch.zeros_like(ids), Segments(8, state)))
    assert [len(states) for _, states in found] == kept


@pytest.mark.parametrize("state", STATES)
def test_no_gradient_passes_to_the_segment_before(
    tiny_model: MambaLM, random_ids: Draw, seq_idx: Tensor, state: str
) -> None:
    ids, cut = random_ids(2, LENGTH), 5
    parts = [
        hidden for _, hidden in hidden_by_segment(tiny_model, ids, seq_idx, Segments(5, state))
    ]
    # Of an uncut row whose first part is data only: its states, not how they came about.
    with torch.no_grad():
        documents = None if state == "carry" else seq_idx
        before = None if documents is None else documents[:, :cut]
        _, states = tiny_model.hidden(ids[:, :cut], before)
    if state == "zero":
        alone, _ = tiny_model.hidden(ids[:, cut : 2 * cut], seq_idx[:, cut : 2 * cut])
    else:  # position 5 continues with the document of position 4 in both rows
        here = None if documents is None else documents[:, cut : 2 * cut]
        alone, _ = tiny_model.hidden(ids[:, cut : 2 * cut], here, states)
    weights = list(tiny_model.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(parts[1].square().sum(), weights),
        torch.autograd.grad(alone.square().sum(), weights),
    )


def test_a_state_that_is_not_finite_ends_with_its_document(
    tiny_model: MambaLM, random_ids: Draw
) -> None:
    ids = random_ids(1, 8)
    seq_idx = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1]])
    with torch.no_grad():
        alone, _ = tiny_model.hidden(ids[:, 4:])
        ids[:, :4] = 0
        tiny_model.backbone.embedding.weight[0] = torch.inf
        parts = [part for _, part in hidden_by_segment(tiny_model, ids, seq_idx, Segments(4))]
    assert not torch.isfinite(parts[0]).any()
    torch.testing.assert_close(parts[1], alone)


def test_rows_stay_whole_unless_a_length_is_asked_for() -> None:
    assert Segments.of(None, "reset") is None
    assert Segments.of(8, "carry") == Segments(8, "carry")
    with pytest.raises(ValueError, match="segment_state='carry': needs segment_tokens"):
        Segments.of(None, "carry")


@pytest.mark.parametrize("tokens", [None, 8])
def test_a_wrong_state_is_refused_by_its_key(tokens: int | None) -> None:
    with pytest.raises(ValueError, match="segment_state='keep': must be one of"):
        Segments.of(tokens, "keep")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokens": 0}, "tokens must be .*, found 0"),
        ({"tokens": 8, "state": "keep"}, "state='keep': must be one of reset, carry, zero"),
    ],
)
def test_impossible_segments_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Segments(**settings)  # type: ignore[arg-type]
