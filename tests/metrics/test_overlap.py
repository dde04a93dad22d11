"""ROUGE and BLEU as sums over items."""

import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from biomamba.metrics.overlap import bleu, rouge, signatures

WORDS = ["the", "patients", "was", "admitted", "with", "fever", "fevers", "2.5", "mg", "of", "."]


def random_texts(num: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=rng.integers(1, 20))) for _ in range(num)]


def values(outputs: list[str], references: list[list[str]]) -> dict[str, float]:
    return {measure.name: measure.value for measure in rouge(outputs, references)}


def test_rouge_counts_shared_words_by_hand() -> None:
    # 3 of 4 written words are in the reference of 6; 2 of 3 pairs in its 5; in order: 3.
    found = values(["patient had fever today"], [["the patients had fever and chills"]])

    assert found["rouge1_f"] == pytest.approx(2 * 3 / (4 + 6))
    assert found["rouge2_f"] == pytest.approx(2 * 2 / (3 + 5))
    assert found["rougel_f"] == pytest.approx(2 * 3 / (4 + 6))


def test_rouge_is_that_of_the_library_per_item() -> None:
    outputs, references = random_texts(20, 1), random_texts(20, 2)
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    scores = [scorer.score(r, o) for o, r in zip(outputs, references, strict=True)]

    found = rouge(outputs, [[text] for text in references])

    for measure, kind in zip(found, ("rouge1", "rouge2", "rougeL"), strict=True):
        assert measure.columns[:, 0].tolist() == [score[kind].fmeasure for score in scores]


def test_the_best_reference_counts_for_rouge() -> None:
    assert values(["fever"], [["chills", "fever"]])["rouge1_f"] == 1


@pytest.mark.parametrize("seed", range(5))
def test_bleu_is_that_of_sacrebleu_over_the_corpus_and_over_any_draw(seed: int) -> None:
    outputs, references = random_texts(30, seed), random_texts(30, seed + 100)
    measure = bleu(outputs, [[text] for text in references])
    counts = np.random.default_rng(seed).multinomial(30, [1 / 30] * 30)
    drawn = np.repeat(np.arange(30), counts)

    whole = sacrebleu.corpus_bleu(outputs, [references])
    part = sacrebleu.corpus_bleu([outputs[i] for i in drawn], [[references[i] for i in drawn]])

    assert measure.value == pytest.approx(whole.score, abs=1e-12)
    assert measure.statistic((counts @ measure.columns)[None])[0] == pytest.approx(part.score)


def test_bleu_of_several_references_is_that_of_sacrebleu() -> None:
    outputs, first, second = (random_texts(20, seed) for seed in (1, 2, 3))

    measure = bleu(outputs, [list(pair) for pair in zip(first, second, strict=True)])

    assert measure.value == pytest.approx(sacrebleu.corpus_bleu(outputs, [first, second]).score)


def test_perfect_outputs_have_the_highest_figures() -> None:
    texts = ["The patient was admitted with fever.", "He took 2.5 mg of it twice."]
    references = [[text] for text in texts]

    assert values(texts, references) == dict.fromkeys(("rouge1_f", "rouge2_f", "rougel_f"), 1)
    assert bleu(texts, references).value == pytest.approx(100)


def test_an_empty_output_counts_as_zero() -> None:
    references = [["the fever"], ["the fever"]]

    assert values(["", "the fever"], references)["rouge1_f"] == 0.5
    assert values(["", ""], references)["rougel_f"] == 0
    assert bleu(["", ""], references).value == 0


def test_signatures_are_those_of_the_libraries() -> None:
    metric = sacrebleu.metrics.BLEU()
    metric.corpus_score(["a"], [["a"]])

    found = signatures([["a"], ["b"]])

    assert found["bleu"] == str(metric.get_signature())
    assert found["rouge1_f"].startswith("rouge-score 0.")
    assert signatures([["a"], ["b", "c"]])["bleu"].startswith("nrefs:var|")


def test_rouge_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        for _ in range(3):
            rouge(["fever"], [["fever"]])

    assert not caplog.records
