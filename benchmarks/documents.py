"""Documents to measure on: as many as asked for, all different, made of real sentences.

Sentences of real texts are drawn at random until a document has the length of a real one. Without
the real texts the generator of the embedded corpora takes their place; its documents are shorter
and its words fewer, so tokenization is faster and rates do not compare with those on real text.
"""

import gzip
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

from biomamba.data.corpora.embedded import EmbeddedCorpus
from biomamba.data.document import Document
from biomamba.data.tokenizer import Tokenizer

DOMAINS = ("pubmed", "web", "wikipedia")
_EMBEDDED = {"pubmed": "biomedical", "web": "web", "wikipedia": "encyclopaedic"}
_REAL = {
    "pubmed": ("pubmed-abstracts-cohen2006/abstracts.jsonl.gz", "abstract"),
    "web": ("c4/c4_full_200.jsonl.gz", "text"),
    "wikipedia": ("wikipedia-extract/articles.jsonl.gz", "text"),
}
_REAL_TOKENIZER = "gpt-neox-20b-tokenizer/20B_tokenizer.json"
_MAX_SEED_TEXTS = 4_000


def real_data() -> Path | None:
    """Return the folder of real texts, or None."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("BIOMAMBA_REAL_DATA", default))
    return folder if folder.is_dir() else None


def kind() -> str:
    """Say what the documents are made of."""
    return "generated" if real_data() is None else "real sentences"


def seed_texts(domain: str) -> list[str]:
    """Return the texts that sentences are taken from."""
    folder = real_data()
    if folder is None:
        corpus = EmbeddedCorpus(_EMBEDDED[domain])
        documents = (row for shard in corpus.shards() for row in corpus.documents(shard))
        return [row.text for row in documents if isinstance(row, Document)]
    name, column = _REAL[domain]
    with gzip.open(folder / name, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [row[column] for row in rows if row.get(column)][:_MAX_SEED_TEXTS]


def texts(domain: str, num_documents: int, seed: int = 0) -> Iterator[str]:
    """Iterate over new texts of a domain; text i depends on the seed and i alone."""
    seeds = seed_texts(domain)
    sentences = [part for text in seeds for part in text.replace("\n", " ").split(". ") if part]
    for number in range(num_documents):
        choice = random.Random(f"{seed} {domain} {number}")
        length, text = len(choice.choice(seeds)), ""
        while len(text) < length:
            text += choice.choice(sentences) + ". "
        yield text.strip()


def tokenizer() -> Tokenizer:
    """Return the tokenizer of the public checkpoints, or one trained on the embedded texts."""
    folder = real_data()
    if folder is not None:
        return Tokenizer.load(str(folder / _REAL_TOKENIZER))
    return Tokenizer.train_bpe((text for domain in DOMAINS for text in seed_texts(domain)), 8_192)
