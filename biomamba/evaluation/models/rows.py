"""Rows of ids that pass through a model together, and what is looked up behind their positions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from biomamba.evaluation.answer_model import ScoreRequest

_POSITIONS_AT_ONCE = 256  # bounds the memory of their probabilities


@dataclass
class Row:
    """Ids to be read, and ids whose log-probabilities are wanted.

    Attributes:
        prompt: What an encoder reads; empty for models without one.
        ids: What the decoder reads.
        wanted: Pairs: index of a position, and the id whose log-probability behind it is wanted.
    """

    prompt: Sequence[int]
    ids: list[int]
    wanted: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True)
class Place:
    """Where the log-probabilities of an answer stand: a row, and a part of what it wants."""

    row: int
    begin: int
    end: int


def answer_rows(
    prompt: Sequence[int], before: Sequence[int], answers: Sequence[Sequence[int]], first_row: int
) -> tuple[list[Row], list[Place]]:
    """Return as few rows as the answers need, and the place of each answer.

    Of an answer all but the last id are read. Answers of one id share a row, and so does one that
    another one begins with. The answers stand behind `before`; the rows count from `first_row`.

    Raises:
        ValueError: An answer has no ids.
    """
    if not all(answers):
        raise ValueError("an answer has no ids, so it has no probability")
    read = sorted({tuple(answer[:-1]) for answer in answers}, key=lambda ids: (-len(ids), ids))
    kept: list[tuple[int, ...]] = []
    for ids in read:
        if not any(longer[: len(ids)] == ids for longer in kept):
            kept.append(ids)
    rows = [Row(prompt, [*before, *ids]) for ids in kept]
    places = []
    for answer in answers:
        ids = tuple(answer[:-1])
        index = next(n for n, longer in enumerate(kept) if longer[: len(ids)] == ids)
        wanted = rows[index].wanted
        begin, behind = len(wanted), len(before) - 1
        wanted += [(behind + n, token) for n, token in enumerate(answer)]
        places.append(Place(first_row + index, begin, len(wanted)))
    return rows, places


def request_rows(
    requests: Sequence[ScoreRequest], before: Sequence[int], *, has_encoder: bool
) -> tuple[list[Row], list[list[Place]]]:
    """Return the rows of requests and the places of their answers.

    `before` are the ids with which every text begins, in the decoder.
    """
    rows: list[Row] = []
    places = []
    for request in requests:
        prompt = list(request.prompt_ids)
        if has_encoder:
            found, mine = answer_rows(prompt, before, request.answers, len(rows))
        else:
            found, mine = answer_rows((), [*before, *prompt], request.answers, len(rows))
        rows += found
        places.append(mine)
    return rows, places


def sums_of(
    values: Sequence[Sequence[float]], places: Sequence[Sequence[Place]]
) -> list[list[float]]:
    """Return the sum of every place, of the values of all rows."""
    return [[sum(values[at.row][at.begin : at.end]) for at in mine] for mine in places]


def batches_by_length(rows: Sequence[Row], batch_size: int) -> Iterator[list[int]]:
    """Yield the indices of rows of similar lengths, the longest first."""
    order = sorted(range(len(rows)), key=lambda n: (-len(rows[n].prompt), -len(rows[n].ids), n))
    for begin in range(0, len(order), batch_size):
        yield order[begin : begin + batch_size]


def fill_right(sequences: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ids and mask (rows, longest), filled with zeros on the right."""
    longest = max(len(ids) for ids in sequences)
    filled = [[*ids, *[0] * (longest - len(ids))] for ids in sequences]
    mask = [[1] * len(ids) + [0] * (longest - len(ids)) for ids in sequences]
    return torch.tensor(filled, device=device), torch.tensor(mask, device=device)


def fill_left(sequences: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ids and mask (rows, longest), filled with zeros on the left."""
    ids, mask = fill_right([list(reversed(each)) for each in sequences], device)
    return ids.flip(1), mask.flip(1)


def look_up(logits: Tensor, positions: Sequence[int], rows: Sequence[Row]) -> list[list[float]]:
    """Return the wanted log-probabilities of rows.

    logits are (rows, positions, vocab), of the positions that are named only.
    """
    column = {position: n for n, position in enumerate(positions)}
    found = []
    for row, mine in zip(rows, logits, strict=True):
        values = list[float]()
        for begin in range(0, len(row.wanted), _POSITIONS_AT_ONCE):
            wanted = row.wanted[begin : begin + _POSITIONS_AT_ONCE]
            at = torch.tensor([column[position] for position, _ in wanted], device=mine.device)
            tokens = torch.tensor([token for _, token in wanted], device=mine.device)
            log_probabilities = mine[at].double().log_softmax(-1)
            values += log_probabilities.gather(1, tokens.unsqueeze(1)).squeeze(1).tolist()
        found.append(values)
    return found


def wanted_positions(rows: Sequence[Row]) -> list[int]:
    """Return the positions behind which anything is wanted in any of the rows."""
    return sorted({position for row in rows for position, _ in row.wanted})
