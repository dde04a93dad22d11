"""Validation documents of a stream: the first that the split rule holds out, kept in memory."""

from collections.abc import Sequence

from rich.console import Console
from rich.progress import Progress

from biomamba.data.document import Document
from biomamba.data.memory_split import MemorySplit
from biomamba.data.streaming.admission import Admission
from biomamba.data.streaming.source import StreamedSource
from biomamba.data.tokenizer import Tokenizer
from biomamba.runtime.errors import DataError
from biomamba.runtime.ranks import is_rank_zero


class DocumentsInMemory(MemorySplit):
    """Tokenised documents that lie in no store.

    Args:
        documents: The documents.
        tokenizer: Encodes them.
    """

    def __init__(self, documents: Sequence[Document], tokenizer: Tokenizer) -> None:
        encoded = tokenizer.encode_batch([document.text for document in documents])
        super().__init__(
            [[*ids, tokenizer.eod_id] for ids in encoded],
            tokenizer.eod_id,
            ids=[document.id for document in documents],
            num_bytes=[len(document.text.encode("utf-8")) for document in documents],
        )


def held_out_documents(
    source: StreamedSource, admission: Admission, max_documents: int, max_bad_fraction: float
) -> list[Document]:
    """Read the first validation documents of a source, in the order of its shards.

    Progress goes to stderr, of rank zero only.

    Raises:
        DataError: If a whole pass over the source finds none.
    """
    found: list[Document] = []
    with Progress(console=Console(stderr=True), disable=not is_rank_zero()) as progress:
        task = progress.add_task(f"validation documents of {source.name}", total=max_documents)
        for shard in source.shards:
            for _, document in shard.documents(max_bad_fraction):
                if admission.is_of("val", document):
                    found += admission.without_benchmarks([document])
                    progress.update(task, completed=len(found))
                if len(found) == max_documents:
                    return found
    if not found:
        raise DataError(
            f"source {source.name!r} has no validation documents; raise split.val_permille"
        )
    return found
