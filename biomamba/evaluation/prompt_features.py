"""What a model has in mind behind a prompt: one vector per prompt of its last hidden states."""

from collections.abc import Sequence

import torch
from torch import Tensor

from biomamba.evaluation.answer_model import POOLINGS
from biomamba.model.language_model import MambaLM


def pooled_hidden(
    model: MambaLM, prompts: Sequence[Sequence[int]], pooling: str, segment_tokens: int
) -> Tensor:
    """Return float64 vectors (prompts, d_model) of the hidden states behind the last norm.

    Each prompt holds the id that begins a document and then its own ids; mean and max are over the
    latter. Prompts pass in segments of `segment_tokens` positions that hand on their states, so
    that the memory does not grow with their length. Filling stands on the right, where no position
    that is taken can see it.

    Raises:
        ValueError: A prompt has no ids of its own, or the pooling is not known.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"pooling is {pooling!r}; allowed: {', '.join(POOLINGS)}")
    if min(len(prompt) for prompt in prompts) < 2:
        raise ValueError("a prompt has no ids, so nothing stands behind it")
    device = model.head_weight.device
    longest = max(len(prompt) for prompt in prompts)
    filled = [list(prompt) + [0] * (longest - len(prompt)) for prompt in prompts]
    ids = torch.tensor(filled, device=device)
    ends = torch.tensor([len(prompt) for prompt in prompts], device=device).unsqueeze(1)
    first = ends - 1 if pooling == "last" else torch.ones_like(ends)
    states = model.initial_states(len(prompts))
    found = []
    for begin in range(0, longest, segment_tokens):
        hidden, states = model.hidden(ids[:, begin : begin + segment_tokens], None, states)
        position = torch.arange(begin, begin + hidden.shape[1], device=device)
        is_left = ((position < first) | (position >= ends)).unsqueeze(-1)
        if pooling == "max":
            found.append(hidden.masked_fill(is_left, -torch.inf).amax(1).double())
        else:
            found.append(hidden.masked_fill(is_left, 0).sum(1, dtype=torch.float64))
    segments = torch.stack(found)
    return segments.amax(0) if pooling == "max" else segments.sum(0) / (ends - first)
