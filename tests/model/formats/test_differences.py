from biomamba.model.config import Mamba1Config, Mamba2Config
from biomamba.model.formats.layouts import architecture_differences


def test_differences_name_both_values() -> None:
    ours = Mamba2Config(d_model=768, n_layer=24, vocab_size=50_277)
    theirs = Mamba2Config(d_model=1024, n_layer=24, vocab_size=50_280)

    assert architecture_differences(ours, theirs) == [
        "d_model: config 768, checkpoint 1024",
        "vocab_size: config 50277, checkpoint 50280",
    ]


def test_initialisation_chunk_and_padded_vocabulary_are_no_difference() -> None:
    ours = Mamba2Config(d_model=768, n_layer=24, vocab_size=50_277)
    theirs = Mamba2Config(
        d_model=768,
        n_layer=24,
        vocab_size=50_288,
        pad_vocab_size_multiple=1,
        chunk_size=64,
        dt_max=0.2,
        initializer_range=0.1,
    )

    assert architecture_differences(ours, theirs) == []


def test_other_padding_is_a_difference() -> None:
    ours = Mamba2Config(d_model=768, n_layer=24, vocab_size=50_277)
    theirs = Mamba2Config(d_model=768, n_layer=24, vocab_size=50_277, pad_vocab_size_multiple=8)

    assert architecture_differences(ours, theirs) == [
        "rows of the embedding: config 50288, checkpoint 50280"
    ]


def test_another_mixer_is_the_one_difference() -> None:
    ours = Mamba2Config(d_model=768, n_layer=24, vocab_size=50_277)
    theirs = Mamba1Config(d_model=768, n_layer=24, vocab_size=50_277)

    assert architecture_differences(ours, theirs) == ["layer: config Mamba2, checkpoint Mamba1"]


def test_rank_in_words_is_the_rank_in_numbers() -> None:
    ours = Mamba1Config(d_model=768, n_layer=24, vocab_size=50_277)
    same = Mamba1Config(d_model=768, n_layer=24, vocab_size=50_277, dt_rank=48)
    other = Mamba1Config(d_model=768, n_layer=24, vocab_size=50_277, dt_rank=32)

    assert architecture_differences(ours, same) == []
    assert architecture_differences(ours, other) == ["dt_rank: config auto, checkpoint 32"]
