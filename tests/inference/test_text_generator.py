import pytest
import torch

from biomamba.data.tokenizer import Tokenizer
from biomamba.inference.text_generation import TextGenerator, TextOptions, TextRun
from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.config import Mamba2Config
from biomamba.model.generation import GenerationOptions, Sampling, Vocabulary, generate
from biomamba.model.language_model import MambaLM
from biomamba.runtime.errors import CheckpointError

TOKENIZER = Tokenizer.byte_tokenizer()
PROMPTS = ["The heart", "x", "a longer prompt than the others"]
SEEDS = [3, 4, 5]
TOKENS = GenerationOptions(max_new_tokens=24, sampling=Sampling(temperature=1.0))


@pytest.fixture
def model() -> MambaLM:
    """A float64 model of bytes whose draws are mostly letters."""
    config = Mamba2Config(d_model=16, n_layer=2, vocab_size=257, d_state=8, headdim=8)
    model = MambaLM(config, ChunkedScan(chunk_size=8)).double()
    with torch.no_grad():
        model.head_weight.normal_(0, 0.3)
    return model


def run(model: MambaLM, options: TextOptions, rows: tuple[int, ...] = (0, 1, 2)) -> TextRun:
    generator = TextGenerator(model, TOKENIZER, options)
    return generator.start([PROMPTS[row] for row in rows], [SEEDS[row] for row in rows])


def new_ids(model: MambaLM, eos_id: int | None, starts_document: bool = True) -> list[list[int]]:
    ids = TOKENIZER.encode_batch(PROMPTS)
    if starts_document:
        ids = [[TOKENIZER.eod_id, *each] for each in ids]
    return generate(model, ids, TOKENS, Vocabulary(257, eos_id), SEEDS)


@pytest.mark.parametrize("starts_document", [True, False])
def test_texts_are_the_decoded_ids(model: MambaLM, starts_document: bool) -> None:
    found = run(model, TextOptions(tokens=TOKENS, starts_document=starts_document))
    list(found)
    expected = new_ids(model, TOKENIZER.eod_id, starts_document)

    assert [each.text for each in found.completions] == [TOKENIZER.decode(i) for i in expected]
    ended = [len(ids) < 24 for ids in expected]
    assert [each.stop_reason for each in found.completions] == [
        "eos" if end else "length" for end in ended
    ]
    assert [each.num_new_tokens for each in found.completions] == [len(ids) for ids in expected]


def test_pieces_add_up_to_the_texts(model: MambaLM) -> None:
    found, texts = run(model, TextOptions(tokens=TOKENS)), ["", "", ""]
    for row, piece in found:
        texts[row] += piece

    assert texts == [each.text for each in found.completions]


def test_a_row_is_the_same_alone(model: MambaLM) -> None:
    options = TextOptions(tokens=TOKENS)
    together = run(model, options)
    list(together)
    for row in range(3):
        alone = run(model, options, (row,))
        list(alone)
        assert alone.completions[0] == together.completions[row]


def test_stop_string_ends_its_row_only(model: MambaLM) -> None:
    free = run(model, TextOptions(tokens=TOKENS))
    list(free)
    text = free.completions[0].text
    stop = text[4:7]
    assert stop not in text[:6]
    assert all(stop not in each.text for each in free.completions[1:])
    stopped = run(model, TextOptions(tokens=TOKENS, stop=[stop]))
    list(stopped)

    assert stopped.completions[0].text == text[:4]
    assert stopped.completions[0].stop_reason == "stop"
    assert stopped.completions[0].num_new_tokens < free.completions[0].num_new_tokens
    assert stopped.completions[1:] == free.completions[1:]


def test_end_of_document_ends_a_row(model: MambaLM) -> None:
    with torch.no_grad():  # the end of a document becomes as likely as all the rest
        model.head_weight[TOKENIZER.eod_id] = model.head_weight.norm(dim=-1).max()
    found = run(model, TextOptions(tokens=TOKENS))
    list(found)

    reasons = [each.stop_reason for each in found.completions]
    assert "eos" in reasons
    assert not any("endoftext" in each.text for each in found.completions)


def test_a_tokenizer_with_more_ids_than_the_model_is_refused() -> None:
    config = Mamba2Config(d_model=16, n_layer=1, vocab_size=256, d_state=8, headdim=8)
    with pytest.raises(CheckpointError, match="257 ids, but the model only 256; name the token"):
        TextGenerator(MambaLM(config, ChunkedScan()), TOKENIZER, TextOptions(tokens=TOKENS))


@pytest.mark.parametrize(
    ("stop", "message"),
    [(".", r"stop='\.': must be a list of texts"), (["a", ""], "none of them empty")],
)
def test_options_out_of_range_are_refused(stop: str | list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextOptions(tokens=TOKENS, stop=stop)
