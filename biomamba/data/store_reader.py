"""Open finished token stores and make sure that they belong together."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from biomamba.data.document_facts import FACTS_KIND
from biomamba.data.manifest import Manifest, verify_store
from biomamba.runtime.errors import ConfigError, DataError

VERIFY_MODES = ("full", "size")


@dataclass(frozen=True)
class OpenStore:
    """A finished store."""

    folder: Path
    manifest: Manifest

    @property
    def fingerprint(self) -> str:
        """Identify the documents of the store and their order, whatever code wrote them."""
        manifest = self.manifest
        return content_fingerprint(
            {
                "tokenizer": manifest.tokenizer,
                "dtype": manifest.dtype,
                "shards": manifest.shards,
                "files": {
                    name: record.sha256
                    for name, record in manifest.files.items()
                    # Records of how they were made, and what is told about the documents.
                    if not name.endswith((".json", f".{FACTS_KIND}"))
                },
            }
        )


def open_stores(folders: Sequence[str]) -> list[OpenStore]:
    """Open stores that are pooled into one source or used together.

    Raises:
        ConfigError: If no folder is given or one is given twice.
        DataError: If a store is missing or damaged, or the stores do not share tokenizer and split
            rule: ids would mean different tokens, or a document could be in two splits.
    """
    if not folders:
        raise ConfigError("a source names no token stores; give at least one folder")
    doubles = sorted({folder for folder in folders if folders.count(folder) > 1})
    if doubles:
        raise ConfigError(f"token stores named more than once: {', '.join(doubles)}")
    stores = [OpenStore(Path(folder), Manifest.read(Path(folder))) for folder in folders]
    check_compatible(stores)
    return stores


def check_compatible(stores: Sequence[OpenStore]) -> None:
    """Refuse stores of different tokenizers or split rules.

    Raises:
        DataError: Naming the first two stores that differ.
    """
    first = stores[0]
    for other in stores[1:]:
        for what in ("tokenizer", "split"):
            mine, its = getattr(first.manifest, what), getattr(other.manifest, what)
            if mine != its:
                raise DataError(
                    f"token stores {first.folder} and {other.folder} differ in {what} "
                    f"({mine} and {its}); prepare them as one set"
                )


def verify_stores(stores: Sequence[OpenStore], mode: str) -> None:
    """Compare every file with the manifests, by hash (`full`) or by size (`size`).

    Raises:
        DataError: Naming every file that is missing, cut or changed.
    """
    for store in stores:
        verify_store(store.folder, mode)


def content_fingerprint(content: Mapping[str, object]) -> str:
    """Hash a JSON-like description."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()
