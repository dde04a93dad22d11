"""WikiText: whole Wikipedia articles whose perplexity is measured."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from biomamba.data.cleaning.benchmarks.item import Item
from biomamba.data.corpora.wikitext import WikiText
from biomamba.data.document import Reject
from biomamba.data.rows import LocalRows
from biomamba.runtime.errors import ConfigError, DataError


@dataclass(frozen=True)
class WikiTextArticles:
    """The articles of the raw files in the hub layout, one line per row.

    Attributes:
        files: Files with a column `text`; `*` in a name stands for all that match.
    """

    files: list[str]

    def __post_init__(self) -> None:
        if not self.files:
            raise ConfigError("files of WikiText is empty; name at least one")

    def fingerprints(self) -> dict[str, str]:
        """Return the hashes of the files by name."""
        return {shard.name: shard.fingerprint() for shard in LocalRows(self.files).shards()}

    def settings(self) -> dict[str, Any]:
        """Return the layout; the bytes of the files say the rest."""
        return {"layout": type(self).__name__}

    def items(self) -> Iterator[Item]:
        """Iterate over the articles, named by their titles."""
        corpus = WikiText(LocalRows(self.files), licence="")
        for shard in corpus.shards():
            num_articles = 0
            for article in corpus.documents(shard):
                if not isinstance(article, Reject):
                    num_articles += 1
                    yield Item(article.id, [article.text], title=article.id)
                elif article.reason != "empty article":
                    raise DataError(
                        f"benchmark file {shard.name} is not WikiText ({article.reason} at "
                        f"{article.id}); use the raw test split, one line per row"
                    )
            if not num_articles:
                raise DataError(f"benchmark file {shard.name} holds no WikiText article")
