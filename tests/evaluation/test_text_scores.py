"""Bits per byte of models with a tokenizer of their own, on real token stores."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from tokenizers import decoders, normalizers, pre_tokenizers, trainers

from biomamba.data.batches import EvaluationRows, open_evaluation_rows
from biomamba.data.corpora.embedded import EmbeddedCorpus
from biomamba.data.prepare.pipeline import prepare
from biomamba.data.store.writer import StorePolicy
from biomamba.data.tokenizer import ByteLevel, load_tokenizer, write_tokenizer
from biomamba.evaluation.document_scores import StoredScores
from biomamba.evaluation.models.causal import TransformersCausal
from biomamba.evaluation.models.loading import Pretrained, Row
from biomamba.evaluation.perplexity import StoredTexts, perplexity_records, score_texts
from biomamba.evaluation.records import RecordContext, ResultRecord
from biomamba.evaluation.runner import EvaluationSettings, Scorable, evaluate_perplexity
from biomamba.metrics.measure import Bootstrap
from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.checkpoint import load_pretrained
from biomamba.reporting.tables import perplexity_table
from biomamba.runtime.errors import ConfigError, DataError

WINDOW = 100
POSITIONS = 128


def spread(model: Any) -> Any:
    """Make some ids far more likely than others."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.2)
    return model.eval()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    corpora = {"web": EmbeddedCorpus("web", num_documents=60)}
    prepare(folder, corpora, ByteLevel(), StorePolicy(val_permille=300, test_permille=300))
    return folder / "web"


@pytest.fixture(scope="module")
def mamba(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a random model with the tokenizer of the store."""
    folder, tokenizer = tmp_path_factory.mktemp("mamba"), load_tokenizer(store.parent)
    write_tokenizer(tokenizer, folder)
    config = transformers.Mamba2Config(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        num_hidden_layers=1,
        state_size=8,
        num_heads=4,
        head_dim=8,
        n_groups=1,
        chunk_size=8,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    spread(transformers.Mamba2ForCausalLM(config)).save_pretrained(folder)
    return folder


def save_gpt2(folder: Path, texts: Sequence[str], *, lowers: bool = False) -> Path:
    """Save a random model with a tokenizer of its own, trained on texts."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.normalizer = normalizers.Lowercase() if lowers else None
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<e>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<e>")
    tokenizer.save_pretrained(folder)
    config = transformers.GPT2Config(
        vocab_size=400,
        n_positions=POSITIONS,
        n_embd=16,
        n_layer=1,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    spread(transformers.GPT2LMHeadModel(config)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def gpt2(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = rows_of(store)
    return save_gpt2(tmp_path_factory.mktemp("gpt2"), list(texts_of(store, rows)))


def rows_of(store: Path) -> EvaluationRows:
    return open_evaluation_rows([str(store)], split="test", seq_len=WINDOW, batch_size=4)


def texts_of(store: Path, rows: EvaluationRows) -> list[str]:
    texts = StoredTexts(rows.documents, str(store), rows.tokenizer_fingerprint)
    return [texts[n] for n in range(len(texts))]


def load(folder: Path) -> TransformersCausal:
    return TransformersCausal(Pretrained.find(str(folder)), label="other", batch_size=16)


def evaluate(
    store: Path, models: dict[str, Scorable], **changes: Any
) -> tuple[list[ResultRecord], list[StoredScores]]:
    settings = {
        "sources": {"web": [str(store)]},
        "split": "test",
        "seq_len": WINDOW,
        "batch_size": 4,
        "bootstrap": Bootstrap(num_resamples=20),
    }
    kept: list[StoredScores] = []
    found = evaluate_perplexity(models, EvaluationSettings(**settings | changes), {}, kept.append)
    return list(found), kept


def test_texts_are_those_of_the_corpus(store: Path) -> None:
    rows = rows_of(store)

    texts = texts_of(store, rows)

    assert [len(text.encode()) for text in texts] == rows.num_bytes.tolist()
    originals = {document.text for document in documents_of_the_corpus()}
    assert set(texts) <= originals


def documents_of_the_corpus() -> list[Any]:
    corpus = EmbeddedCorpus("web", num_documents=60)
    return [document for shard in corpus.shards() for document in corpus.documents(shard)]


def test_our_own_reading_of_the_same_checkpoint_takes_as_many_bits(
    store: Path, mamba: Path
) -> None:
    ours = load_pretrained(mamba, ChunkedScan()).eval()

    records, (native, text) = evaluate(store, {"base": ours, "other": load(mamba)})

    assert len(native.scores.nll) > 5
    assert max(native.scores.num_tokens) > WINDOW  # so that windows are cut alike too
    np.testing.assert_allclose(text.scores.nll, native.scores.nll, rtol=1e-5)
    np.testing.assert_array_equal(text.scores.num_tokens, native.scores.num_tokens)
    change = next(record for record in records if record.metric == "bits_per_byte_change")
    assert change.value == pytest.approx(0, abs=1e-5)


def test_a_model_with_its_own_tokens_takes_the_bits_of_a_plain_forward_pass(
    store: Path, gpt2: Path
) -> None:
    network = transformers.AutoModelForCausalLM.from_pretrained(gpt2).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(gpt2)
    rows, bits, num_tokens = rows_of(store), 0.0, 0
    for text in texts_of(store, rows):
        ids = [*tokenizer(text)["input_ids"], 0]
        num_tokens += len(ids)
        for begin in range(0, len(ids), WINDOW):
            window = [ids[begin - 1] if begin else 0, *ids[begin : begin + WINDOW]]
            with torch.no_grad():
                loss = network(torch.tensor([window]), labels=torch.tensor([window])).loss
            bits += float(loss) * (len(window) - 1) / math.log(2)

    records, _ = evaluate(store, {"model": load(gpt2)})

    assert [record.metric for record in records] == ["bits_per_byte"]
    assert records[0].value == pytest.approx(bits / int(rows.num_bytes.sum()), rel=1e-5)
    assert records[0].num_tokens == num_tokens
    assert records[0].provenance["lossy_documents"] == 0


def test_figures_per_token_are_not_compared_across_tokenizers(
    store: Path, mamba: Path, gpt2: Path
) -> None:
    ours, other = load_pretrained(mamba, ChunkedScan()).eval(), load(gpt2)

    records, kept = evaluate(store, {"base": other, "adapted": ours})
    reverse, _ = evaluate(store, {"base": ours, "adapted": other})

    metrics = ["bits_per_byte", "perplexity", "bits_per_byte", "bits_per_byte_change"]
    assert [record.metric for record in records] == metrics
    assert [(r.model, r.metric) for r in reverse] == [
        ("base", "perplexity"),
        ("base", "bits_per_byte"),
        ("adapted", "bits_per_byte"),
        ("adapted", "bits_per_byte_change"),
    ]
    # The same two models, the other way round.
    assert reverse[3].value == pytest.approx(-records[3].value)
    assert records[3].value == pytest.approx(records[2].value - records[0].value)
    assert len({stored.origin.tokenizer for stored in kept}) == 2
    context = RecordContext("x", "web", "test", Bootstrap(num_resamples=20), {})
    with pytest.raises(ValueError, match="another tokenizer"):
        perplexity_records(context, kept[0].scores, kept[1].scores)


def test_a_table_leaves_out_what_is_not_defined(store: Path, mamba: Path, gpt2: Path) -> None:
    ours, other = load_pretrained(mamba, ChunkedScan()).eval(), load(gpt2)
    records, _ = evaluate(store, {"base": other, "adapted": ours})

    header, _, line = perplexity_table(records).splitlines()

    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert header.split("|")[-2].strip() == "bits/byte change"
    assert cells[2] == f"{records[1].num_tokens:,}"  # those of the store
    assert cells[3] == "n/a"


def test_a_tokenizer_that_loses_letters_is_refused(store: Path, gpt2: Path, tmp_path: Path) -> None:
    rows = rows_of(store)
    texts = texts_of(store, rows)
    num_lossy = sum(text != text.lower() for text in texts)
    assert num_lossy > 0
    model = load(save_gpt2(tmp_path, texts, lowers=True))

    with pytest.raises(DataError, match=rf"cannot give back {num_lossy} of {len(texts)} documents"):
        evaluate(store, {"model": model})
    records, _ = evaluate(store, {"model": model}, allow_lossy_tokenizer=True)
    assert records[0].provenance["lossy_documents"] == num_lossy


def test_a_window_that_the_model_cannot_read_is_refused(store: Path, gpt2: Path) -> None:
    evaluate(store, {"model": load(gpt2)}, seq_len=POSITIONS, max_documents=1)

    with pytest.raises(ConfigError, match=r"seq_len=129: .* windows of at most 128 tokens"):
        evaluate(store, {"model": load(gpt2)}, seq_len=POSITIONS + 1)


def test_a_mark_before_every_window_takes_a_position() -> None:
    model = Recording([9], Letters([9]), max_tokens=127)  # of 128

    score_texts(model, Texts(["a" * 400, "b"]), window_tokens=127)  # type: ignore[arg-type]

    assert max(len(row.ids) for row in model.rows) == 128
    with pytest.raises(ConfigError, match="at most 127 tokens"):
        score_texts(model, Texts(["a", "b"]), window_tokens=128)  # type: ignore[arg-type]


def test_positions_of_other_tokens_are_refused(store: Path, gpt2: Path) -> None:
    with pytest.raises(ConfigError, match=r"by_position=true: .* model has tokens of its own"):
        evaluate(store, {"model": load(gpt2)}, by_position=True)


def test_the_tokenizer_beside_a_store_must_be_its_own(store: Path) -> None:
    rows = rows_of(store)

    with pytest.raises(DataError, match="is not the one that"):
        StoredTexts(rows.documents, str(store), "0" * 64)


@dataclass
class Recording:
    """A model that keeps what it is asked."""

    first_ids: list[int]
    tokenizer: Any
    eos_id: int | None = None
    max_tokens: int | None = None
    label: str = "recording"
    checkpoint: str = "hf:none"
    rows: list[Row] = field(default_factory=list)

    def log_probabilities(self, rows: Sequence[Row]) -> list[list[float]]:
        self.rows += rows
        return [[-1.0] * len(row.wanted) for row in rows]


@dataclass
class Letters:
    """A tokenizer of letters, which may put a mark before every text."""

    first_ids: list[int]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [[ord(letter) for letter in text] for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))


class Texts(list[str]):
    num_bytes = np.array([5, 1])


@pytest.mark.parametrize(
    ("mark", "inputs"),
    [
        ([], ["\x09a", "bc", "d", "\x09"]),  # a later window continues after the token before it
        ([9], ["\x09a", "\x09bc", "\x09d", "\x09"]),  # and after the mark of every text
    ],
)
def test_every_token_is_scored_once_behind_what_its_model_knows(
    mark: list[int], inputs: list[str]
) -> None:
    model = Recording([9], Letters(mark))

    found = score_texts(model, Texts(["abcde", "x"]), window_tokens=2)  # type: ignore[arg-type]

    assert ["".join(map(chr, row.ids)) for row in model.rows] == inputs
    scored = [(len(row.ids) - len(row.wanted) + n, row.wanted[n]) for row in model.rows
              for n in range(len(row.wanted))]  # fmt: skip
    assert [chr(token) for _, (_, token) in scored] == list("abcdex")
    assert all(position == place for place, (position, _) in scored)
    assert found.scores.nll.tolist() == [5.0, 1.0]
    assert found.scores.num_tokens.tolist() == [5, 1]
