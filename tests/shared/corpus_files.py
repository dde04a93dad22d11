"""Small invented files of all corpora, in columns that serve every layout."""

import gzip
import json
import random
import shutil
from pathlib import Path

NUM_DOCUMENTS = 120
FIRST_ID = 10_000  # no PMID of the questions, which the firewall would leave out
# Where the sources of experiments find their text; every one has its own.
RAW = (
    "pubmed-abstracts-cohen2006/abstracts.jsonl.gz",
    "c4/c4_full_200.jsonl.gz",
    "c4/c4_prefix_completion_1480.jsonl.gz",
    "openwebtext-1000/openwebtext-1000.jsonl.gz",
    "wikipedia-extract/articles.jsonl.gz",
)
WORDS = [a + b for a in "bdfglmnprst" for b in ("an", "ero", "ilu", "osta", "umi")]


def write_corpora(raw: Path) -> None:
    """Write rows that have the columns of all layouts, and articles of WikiText."""
    for place in RAW:
        words = random.Random(place)
        rows = []
        for number in range(NUM_DOCUMENTS):
            text = " ".join(words.choices(WORDS, k=40))
            named = dict.fromkeys(("id", "pmid", "PMID"), str(FIRST_ID + number))
            named |= {"title": text[:20], "year": "2001", "journal": "none"}
            bodies = ("text", "abstract", "content", "prefix", "gold_completion")
            rows.append({**named, **dict.fromkeys(bodies, text), "url": f"http://x/{number}"})
        (raw / place).parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(raw / place, "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    shutil.copy(raw / RAW[1], raw / "c4" / "c4-sample.0.json.gz")
    for split in ("validation", "test"):
        words, path = random.Random(split), raw / "wikitext-2-raw" / f"{split}.jsonl"
        path.parent.mkdir(exist_ok=True)
        lines = []
        for number in range(NUM_DOCUMENTS):
            body = " ".join(words.choices(WORDS, k=40))
            lines += ["", f" = {split} {number} = \n", "", f" {body} . \n"]
        path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
