"""Tiny random models of every kind, saved in the layouts of transformers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from tokenizers import decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers import models as token_models

TEXTS = [
    "Metformin lowers the glucose of patients. Is it safe? Answer: yes",
    "Aspirin prevents a stroke. Does it cure asthma? Answer: no, maybe not",
]
SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
CAUSAL = ("gpt2", "gpt_neox", "llama", "biogpt", "mamba", "mamba2")
POSITIONS = 128


@dataclass(frozen=True)
class Layout:
    """How the tokenizer of a family of models works."""

    template: str
    bos: str | None
    eos: str | None
    special: tuple[str, ...]
    is_sentencepiece: bool = False
    doubles_spaces: bool = False
    pad: str | None = None


LAYOUTS = {
    "gpt2": Layout("$A", None, "<|endoftext|>", ("<|endoftext|>",)),
    "gpt_neox": Layout("$A", "<|endoftext|>", "<|endoftext|>", ("<|endoftext|>",)),
    "llama": Layout(
        "<s> $A",
        "<s>",
        "</s>",
        ("<unk>", "<s>", "</s>"),
        is_sentencepiece=True,
        doubles_spaces=True,
    ),
    "biogpt": Layout("</s> $A", "<s>", "</s>", ("<s>", "<pad>", "</s>", "<unk>")),
    "mamba": Layout("$A", "<|endoftext|>", "<|endoftext|>", ("<|endoftext|>",)),
    "mamba2": Layout("$A", "<|endoftext|>", "<|endoftext|>", ("<|endoftext|>",)),
    "rwkv": Layout("$A", "<|endoftext|>", "<|endoftext|>", ("<|endoftext|>",)),
    "t5": Layout(
        "$A </s>", None, "</s>", ("<pad>", "</s>", "<unk>"), is_sentencepiece=True, pad="<pad>"
    ),
    "bart": Layout("<s> $A </s>", "<s>", "</s>", ("<s>", "<pad>", "</s>", "<unk>"), pad="<pad>"),
}


def fast_tokenizer(layout: Layout) -> Any:
    """Train a tokenizer of a family: of bytes, or of words that a mark starts."""
    backend = tokenizers.Tokenizer(token_models.BPE(byte_fallback=layout.is_sentencepiece))
    if layout.is_sentencepiece:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        backend.decoder = decoders.Sequence(
            [
                decoders.Replace("\u2581", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
        special, alphabet = [*layout.special, *(f"<0x{n:02X}>" for n in range(256))], []
    else:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        special, alphabet = list(layout.special), sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=460, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(TEXTS, trainer)
    if layout.doubles_spaces:  # as the tokenizers of Llama do at the beginning of a text
        backend.normalizer = normalizers.Sequence(
            [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        )
        backend.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    marks = [(mark, backend.token_to_id(mark)) for mark in layout.special]
    backend.post_processor = processors.TemplateProcessing(
        single=layout.template, special_tokens=marks
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=layout.bos,
        eos_token=layout.eos,
        pad_token=layout.pad,
        clean_up_tokenization_spaces=False,
    )


def build_model(kind: str, tokenizer: Any) -> Any:
    """Build a random model of a kind, whose head has more rows than the tokenizer has ids."""
    ids = {
        "vocab_size": len(tokenizer) + 3,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    limit = {"max_position_embeddings": POSITIONS}
    wide = {"intermediate_size": 32}
    halves = {"encoder_layers": 1, "decoder_layers": 1, "d_model": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    mamba = {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 8}
    mamba2 = {"num_heads": 4, "head_dim": 8, "n_groups": 1, "chunk_size": 4}
    family, head, settings = {
        "gpt2": ("GPT2", "LMHeadModel", {"n_positions": POSITIONS, "n_embd": 16, "n_layer": 2,
                                        "n_head": 2}),
        "gpt_neox": ("GPTNeoX", "ForCausalLM", SIZE | wide | limit),
        "llama": ("Llama", "ForCausalLM", SIZE | wide | limit),
        "biogpt": ("BioGpt", "ForCausalLM", SIZE | wide | limit),
        "mamba": ("Mamba", "ForCausalLM", mamba),
        "mamba2": ("Mamba2", "ForCausalLM", mamba | mamba2),
        "rwkv": ("Rwkv", "ForCausalLM", {"hidden_size": 16, "num_hidden_layers": 2,
                                         "attention_hidden_size": 16, "context_length": 64}),
        "t5": ("T5", "ForConditionalGeneration", {"d_model": 16, "d_kv": 8, "d_ff": 32,
               "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}),
        "bart": ("Bart", "ForConditionalGeneration", halves | heads | limit
                 | {"decoder_start_token_id": 2, "forced_bos_token_id": 0,
                    "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}),
    }[kind]  # fmt: skip
    config = getattr(transformers, f"{family}Config")(**ids, **settings)
    model = getattr(transformers, family + head)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:  # else every id would be about as likely as every other
                parameter.normal_(0, 0.3)
    return model.eval()


def _save_reader(folder: Path, texts: Sequence[str]) -> None:
    """Save a random BERT that answers questions, with a tokenizer of the words of texts."""
    backend = tokenizers.Tokenizer(token_models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=150, special_tokens=special, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    marks = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **{f"{name}_token": mark for name, mark in marks.items()},
    ).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=backend.get_vocab_size(),
        max_position_embeddings=POSITIONS,
        intermediate_size=32,
        **SIZE,
    )
    model = transformers.BertForQuestionAnswering(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.3)
    model.save_pretrained(folder)


SaveModel = Callable[..., Path]


@pytest.fixture(scope="session")
def save_model(tmp_path_factory: pytest.TempPathFactory) -> SaveModel:
    """Return save_model(kind): the folder of a random model with its tokenizer."""
    saved: dict[str, Path] = {}

    def save(kind: str) -> Path:
        if kind not in saved:
            torch.manual_seed(0)
            folder = tmp_path_factory.mktemp(kind)
            tokenizer = fast_tokenizer(LAYOUTS[kind])
            tokenizer.save_pretrained(folder)
            build_model(kind, tokenizer).save_pretrained(folder)
            saved[kind] = folder
        return saved[kind]

    return save


@pytest.fixture(scope="session")
def save_reader() -> Callable[[Path, Sequence[str]], None]:
    """Return save_reader(folder, texts)."""
    return _save_reader
