"""Raw files of every kind of damage: each is a named error or a counted reject, never silence.

Everything goes through `prepare`, with the embedded byte tokenizer. Faults of servers are tested
where their files are fetched.
"""

import csv
import gzip
import io
import json
import os
import random
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from biomamba.config.compose import compose_config
from biomamba.data.corpora.corpus import Corpus
from biomamba.data.corpora.medline import MedlineCorpus
from biomamba.data.corpora.table import ColumnCorpus
from biomamba.data.nlm_download import LocalFiles
from biomamba.data.prepare.pipeline import Job, prepare
from biomamba.data.rows import LocalRows
from biomamba.data.store.format import FORMAT_VERSION, MANIFEST_NAME, Manifest
from biomamba.data.store.reader import TokenSplit, open_stores
from biomamba.data.store.writer import StorePolicy
from biomamba.data.tokenizer import ByteLevel, Tokenizer, TrainedBpe
from biomamba.prepare import main
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.runtime.files import read_sealed, write_sealed

POLICY = StorePolicy(val_permille=0, test_permille=0)
Row = dict[str, Any]
Write = Callable[[Path, list[Row]], None]


def texts(number: int) -> list[Row]:
    """Return rows whose texts differ in every word, so that no change can hide."""
    generator = random.Random(number)
    words = ["p < 0.05", "caf\u00e9", "5 mg", "R&D", "\u2265 3", "dose", "a, b", 'an "aim"']
    rows = []
    for i in range(number):
        picked = [f"{generator.choice(words)} {generator.randrange(10_000)}" for _ in range(9)]
        rows.append({"id": str(i + 1), "text": f"row {i}: " + " ".join(picked)})
    return rows


def save(path: Path, content: bytes) -> None:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_jsonl(path: Path, rows: list[Row]) -> None:
    save(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def write_csv(path: Path, rows: list[Row]) -> None:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, ["id", "text"])
    writer.writeheader()
    writer.writerows(rows)
    save(path, stream.getvalue().encode())


def write_txt(path: Path, rows: list[Row]) -> None:
    save(path, "".join(row["text"] + "\n" for row in rows).encode())


def write_xml(path: Path, rows: list[Row]) -> None:
    body = ""
    for row in rows:
        text = row["text"].replace("&", "&amp;").replace("<", "&lt;")
        abstract = f"<Abstract><AbstractText>{text}</AbstractText></Abstract>"
        key = f'<PMID Version="1">{row["id"]}</PMID><Article>{abstract}</Article>'
        body += f"<PubmedArticle><MedlineCitation>{key}</MedlineCitation></PubmedArticle>\n"
    save(path, f"<PubmedArticleSet>{body}</PubmedArticleSet>".encode())


def write_parquet(
    path: Path, rows: list[Row], compression: str = "zstd", has_checksum: bool = True
) -> None:
    schema = pa.schema([("id", pa.string()), ("text", pa.string())])
    table = pa.Table.from_pylist(rows, schema)
    pq.write_table(table, path, compression=compression, write_page_checksum=has_checksum)


# Formats that carry checksums notice any change of the text.
CHECKED: dict[str, Write] = {
    "a.jsonl.gz": write_jsonl,
    "a.csv.gz": write_csv,
    "a.xml.gz": write_xml,
    "a.parquet": write_parquet,
    "snappy.parquet": partial(write_parquet, compression="snappy"),
    "plain.parquet": partial(write_parquet, compression="none"),
}
# In these a changed letter is another valid text.
UNCHECKED: dict[str, Write] = {
    "a.jsonl": write_jsonl,
    "a.csv": write_csv,
    "a.txt": write_txt,
    "a.xml": write_xml,
    "unchecked.parquet": partial(write_parquet, has_checksum=False),
    "bare.parquet": partial(write_parquet, compression="none", has_checksum=False),
}
FORMATS = CHECKED | UNCHECKED
ROWS_ONLY = [name for name in FORMATS if ".xml" not in name]


def corpus_of(path: Path, **options: Any) -> Corpus:
    if ".xml" in path.name:
        return MedlineCorpus(LocalFiles([str(path)]), "none", **options)
    rows = LocalRows([str(path)], checksums=options.pop("checksums", None))
    id_column = None if path.suffix == ".txt" else "id"
    return ColumnCorpus(rows, "test", "none", ["text"], id_column=id_column, **options)


def stored_texts(folder: Path) -> list[str]:
    """Return the texts of a store, decoded."""
    split = TokenSplit.open(open_stores([str(folder)]), "train")
    tokenizer = Tokenizer.byte_tokenizer()
    return [tokenizer.decode(split.tokens(i)[:-1].tolist()) for i in range(len(split))]


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Manifest]:
    """Return run(path, **options): the manifest of a fresh store of one raw file."""
    numbers = count()

    def _run(path: Path, policy: StorePolicy = POLICY, **options: Any) -> Manifest:
        folder = tmp_path / f"set-{next(numbers)}"
        manifests = prepare(folder, {"raw": corpus_of(path, **options)}, ByteLevel(), policy)
        return manifests["raw"]

    return _run


Run = Callable[..., Manifest]


def kept(manifest: Manifest) -> int:
    return sum(totals.documents for totals in manifest.totals.values())


# Whole files.


@pytest.mark.parametrize("name", FORMATS)
def test_an_intact_file_is_kept_whole(name: str, tmp_path: Path, run: Run) -> None:
    rows = texts(50)
    FORMATS[name](tmp_path / name, rows)
    manifest = run(tmp_path / name)

    assert stored_texts(tmp_path / "set-0" / "raw") == [row["text"] for row in rows]
    assert (kept(manifest), manifest.rejects) == (50, {})


@pytest.mark.parametrize("name", [name for name in FORMATS if name.endswith(("gz", "et", "xml"))])
@pytest.mark.parametrize("fraction", [0.02, 0.5, 0.9, 0.999])
def test_a_cut_file_is_named(fraction: float, name: str, tmp_path: Path, run: Run) -> None:
    FORMATS[name](tmp_path / name, texts(200))
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * fraction)])
    with pytest.raises(DataError, match=rf"cannot read .*{name} to its end .*fetch .* again"):
        run(tmp_path / name)


def test_a_cut_file_is_named_by_its_worker_too(tmp_path: Path) -> None:
    for name in ("a.jsonl.gz", "b.jsonl.gz", "c.jsonl.gz"):
        write_jsonl(tmp_path / name, texts(50))
    content = (tmp_path / "b.jsonl.gz").read_bytes()
    (tmp_path / "b.jsonl.gz").write_bytes(content[:-100])
    corpora = {"raw": corpus_of(tmp_path / "*.jsonl.gz")}
    with pytest.raises(DataError, match=r"cannot read .*b\.jsonl\.gz to its end"):
        prepare(tmp_path / "set", corpora, ByteLevel(), POLICY, job=Job(num_workers=2))


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_a_cut_file_of_lines_loses_its_last_line_and_that_is_counted(
    name: str, tmp_path: Path, run: Run
) -> None:
    FORMATS[name](tmp_path / name, texts(2_000))
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content.rstrip()[:-60])
    if name == "a.csv":  # the quote of the last field stays open
        with pytest.raises(DataError, match=r"a\.csv to its end .*unexpected end of data"):
            run(tmp_path / name)
        return
    manifest = run(tmp_path / name)
    assert (kept(manifest), manifest.rejects) == (1_999, {"row is not JSON": 1})


@pytest.mark.parametrize("name", FORMATS)
def test_an_empty_file_is_named_or_counted(name: str, tmp_path: Path, run: Run) -> None:
    (tmp_path / name).write_bytes(b"")
    is_line_format = name in ("a.jsonl", "a.csv", "a.txt")
    reason = "corpus raw has no document to store" if is_line_format else f"cannot read .*{name}"
    if name in ("a.jsonl.gz", "a.csv.gz"):  # gzip takes nothing for an empty file
        reason = "corpus raw has no document to store"
    with pytest.raises(DataError, match=reason):
        run(tmp_path / name)


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_without_rows_is_a_corpus_without_documents(
    name: str, tmp_path: Path, run: Run
) -> None:
    FORMATS[name](tmp_path / name, [])
    with pytest.raises(DataError, match=r"corpus raw has no document .*its raw files hold no rows"):
        run(tmp_path / name)


def test_a_file_without_rows_beside_others_is_an_empty_shard(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [])
    write_parquet(tmp_path / "b.parquet", texts(3))
    rows = LocalRows([f"{tmp_path}/*.parquet"])
    corpora = {"raw": ColumnCorpus(rows, "test", "none", ["text"])}
    manifest = prepare(tmp_path / "set", corpora, ByteLevel(), POLICY)["raw"]
    assert (manifest.shards, kept(manifest)) == (["00000", "00001"], 3)


@pytest.mark.parametrize("name", [name for name in FORMATS if name.endswith(("gz", "et", "xml"))])
def test_a_file_of_another_kind_is_named(name: str, tmp_path: Path, run: Run) -> None:
    (tmp_path / name).write_bytes(b"Not Found\n")
    with pytest.raises(DataError, match=rf"{name} to its end"):
        run(tmp_path / name)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_a_page_of_a_server_in_place_of_rows_is_named(name: str, tmp_path: Path, run: Run) -> None:
    save(tmp_path / name, b"<html>\n<body>404</body>\n</html>\n")
    message = rf"3 of 3 rows of raw shard {name} are damaged, more than .* \(row is not JSON"
    with pytest.raises(DataError, match=message):
        run(tmp_path / name)


@pytest.mark.parametrize("name", FORMATS)
def test_a_missing_file_is_named(name: str, tmp_path: Path, run: Run) -> None:
    with pytest.raises(DataError, match=f"raw file .*{name} does not exist"):
        run(tmp_path / name)


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_cannot_be_read_is_named(name: str, tmp_path: Path, run: Run) -> None:
    """Without the right to read; root, who has every right, gets a file that fails to be read."""
    path = tmp_path / name
    if os.geteuid() == 0:
        path.symlink_to("/proc/self/mem")
    else:
        FORMATS[name](path, texts(3))
        path.chmod(0)
    with pytest.raises(DataError, match=f"cannot read .*{name}"):
        run(path)


# Rows. One bad row among 2,000 is counted; alone it stops the stage and names the file.


def utf8_cut(row: Row) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode().replace(b"\xc3\xa9", b"\xc3")


BAD_JSON = {
    "cut line": (b'{"id": "x", "text": "cut', "row is not JSON", True),
    "invalid UTF-8": (utf8_cut({"id": "x", "text": "caf\u00e9"}), "row is not UTF-8", True),
    "not an object": (b'["x", "y"]', "row is not an object", True),
    "deep nesting": (b"[" * 200_000, "row is not JSON", True),
    "huge number": (b'{"id": ' + b"9" * 5_000 + b"}", "row is not JSON", True),
    "no text": (b'{"id": "x"}', "no column 'text'", True),
    "renamed text": (b'{"id": "x", "Text": "y"}', "no column 'text'", True),
    "integer text": (b'{"id": "x", "text": 5}', "column 'text' is not text", True),
    "list text": (b'{"id": "x", "text": ["y"]}', "column 'text' is not text", True),
    "lone surrogate": (
        b'{"id": "x", "text": "\\ud800"}',
        "row holds half of a surrogate pair, which is no character",
        True,
    ),
    "no id": (b'{"text": "y"}', "no id in column 'id'", True),
    "null id": (b'{"id": null, "text": "y"}', "no id in column 'id'", True),
    "fractional id": (b'{"id": 1.5, "text": "y"}', "no id in column 'id'", True),
    "null text": (b'{"id": "x", "text": null}', "empty text", False),
    "empty text": (b'{"id": "x", "text": " \\n"}', "empty text", False),
}


@pytest.mark.parametrize("kind", BAD_JSON)
def test_a_bad_json_row_is_counted_or_stops(kind: str, tmp_path: Path, run: Run) -> None:
    line, reason, is_damaged = BAD_JSON[kind]
    path = tmp_path / "a.jsonl"
    write_jsonl(path, texts(2_000))
    path.write_bytes(path.read_bytes() + line + b"\n")
    manifest = run(path)
    assert (kept(manifest), manifest.rejects) == (2_000, {reason: 1})

    path.write_bytes(line + b"\n")
    expected = rf"1 of 1 rows of raw shard a\.jsonl are damaged.*\({reason}"
    with pytest.raises(DataError, match=expected if is_damaged else rf"no document.*{reason}: 1"):
        run(path)


BAD_CSV = {
    "too few fields": (b"x\n", "row has the wrong number of fields"),
    "too many fields": (b"x,y,z\n", "row has the wrong number of fields"),
    "invalid UTF-8": (b"x,caf\xe9\n", "column 'text' is not valid Unicode"),
    "no id": (b",y\n", "no id in column 'id'"),
    "empty text": (b"x,\n", "empty text"),
}


@pytest.mark.parametrize("kind", BAD_CSV)
def test_a_bad_csv_row_is_counted(kind: str, tmp_path: Path, run: Run) -> None:
    line, reason = BAD_CSV[kind]
    path = tmp_path / "a.csv"
    write_csv(path, texts(2_000))
    path.write_bytes(path.read_bytes() + line)
    manifest = run(path)
    assert (kept(manifest), manifest.rejects) == (2_000, {reason: 1})


def test_a_bad_line_of_text_is_counted(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "a.txt"
    write_txt(path, texts(2_000))
    path.write_bytes(path.read_bytes() + b"\xff\n\nlast\n")
    manifest = run(path)
    assert kept(manifest) == 2_001
    assert manifest.rejects == {"row is not UTF-8": 1, "empty text": 1}


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("text", pa.array([1, 2]), "column 'text' is not text"),
        ("text", pa.array([b"x", b"y"]), "column 'text' is not text"),
        ("text", pa.array([["x"], ["y"]]), "column 'text' is not text"),
        ("body", pa.array(["x", "y"]), "no column 'text'"),
        ("text", pa.array([None, None], pa.string()), "empty text: 2"),
    ],
)
def test_a_parquet_column_of_another_kind_stops(
    column: str, values: pa.Array, message: str, tmp_path: Path, run: Run
) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": ["1", "2"], column: values}), path)
    with pytest.raises(DataError, match=message):
        run(path)


def test_parquet_text_that_is_not_utf8_is_damaged(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "a.parquet"
    invalid = pa.array([b"caf\xe9"]).cast(pa.binary()).view(pa.string())
    pq.write_table(pa.table({"id": ["1"], "text": invalid}), path)
    with pytest.raises(DataError, match=r"column 'text' is not UTF-8 at a\.parquet row 1"):
        run(path)


def test_a_repeated_id_and_a_repeated_text_are_counted(tmp_path: Path, run: Run) -> None:
    write_jsonl(
        tmp_path / "a.jsonl",
        [
            {"id": "1", "text": "the first text"},
            {"id": "1", "text": "the second text"},
            {"id": "2", "text": "the first text"},
            {"id": "3", "text": "the third text"},
        ],
    )
    manifest = run(tmp_path / "a.jsonl")
    assert (kept(manifest), manifest.rejects) == (2, {"duplicate id": 1, "duplicate text": 1})


# Texts that are unusual and whole.


@pytest.mark.parametrize(
    "text", ["<|endoftext|>", "a<|endoftext|>b <|padding|>", "\ufeffx", "\U0001f600"]
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_an_unusual_text_stays_as_it_is(text: str, name: str, tmp_path: Path, run: Run) -> None:
    FORMATS[name](tmp_path / name, [{"id": "1", "text": text}])
    totals = run(tmp_path / name).totals["train"]

    size = len(text.encode())
    assert (totals.documents, totals.tokens, totals.bytes) == (1, size + 1, size)
    assert stored_texts(tmp_path / "set-0" / "raw") == [text]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_zero_character_is_damage(name: str, tmp_path: Path, run: Run) -> None:
    FORMATS[name](tmp_path / name, [{"id": "1", "text": "a\0b"}])
    with pytest.raises(DataError, match=r"1 of 1 rows .* holds a zero character"):
        run(tmp_path / name)


def test_a_document_as_long_as_the_limit_passes_and_a_longer_one_is_counted(
    tmp_path: Path, run: Run
) -> None:
    texts = ["\u00e9" * 5_000_000, "\u00e9" * 5_000_001]
    rows = [{"id": str(i), "text": text} for i, text in enumerate(texts)]
    write_parquet(tmp_path / "a.parquet", rows)
    manifest = run(tmp_path / "a.parquet")
    totals = manifest.totals["train"]

    assert (totals.documents, totals.tokens, totals.bytes) == (1, 10_000_001, 10_000_000)
    assert manifest.rejects == {"longer than 5000000 characters": 1}


# Flipped bits.


def flipped(content: bytes, generator: random.Random) -> bytes:
    place = generator.randrange(len(content))
    bit = 1 << generator.randrange(8)
    return content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]


def outcome(path: Path, want: list[str], run: Run, tmp_path: Path, number: int) -> str:
    try:
        manifest = run(path)
    except DataError as error:
        is_named = path.name in str(error) or "corpus raw has no document" in str(error)
        return "error" if is_named else f"nameless error: {error}"
    if manifest.rejects:
        return "reject"
    found = stored_texts(tmp_path / f"set-{number}" / "raw")
    return "same" if found == want else "changed"


@pytest.mark.parametrize("name", FORMATS)
def test_a_flipped_bit_never_changes_a_checked_text(name: str, tmp_path: Path, run: Run) -> None:
    """In formats with a checksum; in others it is an error, a reject or another text."""
    rows, generator = texts(20), random.Random(name)
    want = [row["text"] for row in rows]
    FORMATS[name](tmp_path / name, rows)
    whole = (tmp_path / name).read_bytes()
    outcomes = []
    for number in range(30):
        (tmp_path / name).write_bytes(flipped(whole, generator))
        outcomes.append(outcome(tmp_path / name, want, run, tmp_path, number))

    assert len(outcomes) == 30
    if name in CHECKED:
        assert set(outcomes) <= {"error", "reject", "same"}
        assert outcomes.count("error") > 15
    else:
        assert set(outcomes) <= {"error", "reject", "same", "changed"}
        assert "changed" in outcomes


@pytest.mark.parametrize("name", ROWS_ONLY)
def test_with_its_sha256_any_flipped_bit_is_an_error(name: str, tmp_path: Path, run: Run) -> None:
    generator = random.Random(name)
    FORMATS[name](tmp_path / name, texts(20))
    whole = (tmp_path / name).read_bytes()
    sums = tmp_path / "SHA256SUMS"
    sums.write_text(f"{sha256(whole).hexdigest()}  {name}\n")
    assert kept(run(tmp_path / name, checksums=str(sums))) == 20
    for _ in range(20):
        (tmp_path / name).write_bytes(flipped(whole, generator))
        with pytest.raises(DataError, match=rf"{name} is not the file that .*SHA256SUMS lists"):
            run(tmp_path / name, checksums=str(sums))


# What is there already.


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return a set of one store, `raw`, of a.jsonl."""
    write_jsonl(tmp_path / "a.jsonl", texts(20))
    prepare(tmp_path / "set", {"raw": corpus_of(tmp_path / "a.jsonl")}, ByteLevel(), POLICY)
    return tmp_path / "set"


def again(store: Path, **options: Any) -> None:
    source = options.pop("tokenizer", ByteLevel())
    policy = options.pop("policy", POLICY)
    corpus = corpus_of(store.parent / "a.jsonl", **options)
    prepare(store, {"raw": corpus}, source, policy)


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and "lock" not in path.name]
    return {str(path): path.read_bytes() for path in files}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokenizer": TrainedBpe(300)}, "tokenizer"),
        ({"min_chars": 3}, r"min_chars is 1, asked for 3"),
        ({"policy": StorePolicy(10, 0)}, r"split\.val_permille is 0, asked for 10"),
    ],
)
def test_a_store_of_other_settings_is_refused_and_stays(
    options: dict[str, Any], message: str, store: Path
) -> None:
    before = contents(store)
    with pytest.raises(DataError, match=rf"(?s){message}.*overwrite=true"):
        again(store, **options)
    assert contents(store) == before


def test_a_store_of_other_raw_bytes_is_refused_and_stays(store: Path) -> None:
    before = contents(store)
    write_jsonl(store.parent / "a.jsonl", texts(21))
    with pytest.raises(DataError, match=r"was made from .*a\.jsonl.*overwrite=true"):
        again(store)
    assert contents(store) == before


def test_a_store_of_another_format_is_refused_by_its_readers(store: Path) -> None:
    path = store / "raw" / MANIFEST_NAME
    write_sealed(path, read_sealed(path) | {"format_version": FORMAT_VERSION + 1})
    with pytest.raises(DataError, match=rf"{MANIFEST_NAME}.*format"):
        open_stores([str(store / "raw")])


def test_any_changed_byte_of_a_store_is_refused_by_a_rerun(store: Path) -> None:
    generator = random.Random(0)
    files = [path for path in sorted((store / "raw").glob("0*")) if path.is_file()]
    assert len(files) == 3
    for path in files:
        whole = path.read_bytes()
        for _ in range(5):
            path.write_bytes(flipped(whole, generator))
            with pytest.raises(DataError, match="damaged"):
                again(store)
        path.write_bytes(whole)
    again(store)


# The program.


def test_the_program_names_what_is_missing(tmp_path: Path) -> None:
    given = (f"paths.data_dir={tmp_path}", f"paths.raw_dir={tmp_path}")
    with pytest.raises(DataError, match=r"raw file .*abstracts\.jsonl\.gz does not exist"):
        main(compose_config("prepare", ("corpus=[local_pubmed]", *given)))


def test_the_program_takes_any_file(tmp_path: Path) -> None:
    write_csv(tmp_path / "notes.csv", texts(30))
    given = (
        "corpus=[files]",
        f"corpora.files.rows.files=[{tmp_path}/notes.csv]",
        "corpora.files.domain=clinical",
        "corpora.files.id_column=id",
        f"paths.data_dir={tmp_path}/data",
        "name=mine",
    )
    main(compose_config("prepare", given))
    manifest = Manifest.read(tmp_path / "data" / "mine" / "files")
    assert (manifest.domain, kept(manifest)) == ("clinical", 30)


def test_no_files_at_all_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="files is empty"):
        LocalRows([])
    with pytest.raises(ConfigError, match="corpora is empty"):
        prepare(tmp_path, {}, ByteLevel(), POLICY)
