"""What a run has trained on, source by source."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from biomamba.data.batches import Batch


class SourceCounts(nn.Module):
    """Tokens and documents of each source over all ranks; part of the checkpoints of a run.

    Attributes:
        tokens: (sources,) int64; tokens that were scored.
        documents: (sources,) int64; documents that were begun, again in every epoch.

    Args:
        names: The sources in the order of Batch.source.
        epoch_tokens: Tokens of one epoch of a source, where they are known.
    """

    tokens: Tensor
    documents: Tensor

    def __init__(self, names: Sequence[str], epoch_tokens: Mapping[str, int]) -> None:
        super().__init__()
        self._names = list(names)
        self._epoch_tokens = {name: tokens for name, tokens in epoch_tokens.items() if tokens}
        for kind in ("tokens", "documents"):
            self.register_buffer(kind, torch.zeros(len(names), dtype=torch.int64))

    def of(self, batch: Sequence[Batch]) -> Tensor:
        """Count the tokens and the documents of some micro-batches; (2, sources)."""
        counts = torch.stack([torch.zeros_like(self.tokens), torch.zeros_like(self.tokens)])
        for part in batch:
            counts[0].index_add_(0, part.source, (part.targets >= 0).sum(dim=1))
        pieces = np.concatenate([part.pieces for part in batch])
        begun = np.bincount(pieces["source"][pieces["start"] == 0], minlength=len(self._names))
        counts[1] = torch.from_numpy(begun)
        return counts

    def add(self, counts: Tensor) -> None:
        """Add the counts of a step, summed over all ranks."""
        self.tokens += counts[0]
        self.documents += counts[1]

    def curves(self) -> dict[str, Tensor]:
        """Return what to log: all tokens, the share of each source and its epochs if known."""
        total = self.tokens.sum()
        curves = {"data/tokens": total.double()}
        for name, tokens in zip(self._names, self.tokens, strict=True):
            curves[f"data/token_share/{name}"] = tokens / total
            if name in self._epoch_tokens:
                curves[f"data/epochs/{name}"] = tokens / self._epoch_tokens[name]
        return curves

    def realised(self) -> dict[str, dict[str, Any]]:
        """Return tokens, share, epochs (None if not known) and documents of each source."""
        total = max(1, int(self.tokens.sum()))
        found = zip(self._names, self.tokens.tolist(), self.documents.tolist(), strict=True)
        return {
            name: {
                "tokens": tokens,
                "share": tokens / total,
                "epochs": tokens / known if (known := self._epoch_tokens.get(name)) else None,
                "documents": documents,
            }
            for name, tokens, documents in found
        }
