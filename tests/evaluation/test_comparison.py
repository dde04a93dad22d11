"""Models beside each other on the same items."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from biomamba.evaluation.comparison import (
    Comparison,
    ComparisonRecord,
    ComparisonSettings,
    Models,
    Trained,
    compare,
)
from biomamba.evaluation.stored_run import Scored
from biomamba.metrics.measure import Bootstrap, Measure, mean, proportion, wilson_interval
from biomamba.metrics.significance import (
    MCNEMAR,
    RANDOM_SWAPS,
    SEEDS,
    detectable_by,
    holm,
    mcnemar,
    minimum_detectable_paired_difference,
    paired_difference,
)
from biomamba.runtime.errors import ConfigError, DataError

SETTINGS = ComparisonSettings(metrics=["all"], bootstrap=Bootstrap(num_resamples=200))
ITEMS = [f"item {index:03d}" for index in range(60)]


def make_scored(*measures: Measure, **changes: object) -> Scored:
    values: dict[str, object] = {
        "subject": "qa",
        "protocol": {"split": "test", "prompt": "v1"},
        "tokenizer": "t",
        "items": ITEMS,
        "units": ITEMS,
        "measures": list(measures),
    }
    return Scored(**(values | changes))  # type: ignore[arg-type]


def make_hits(seed: int, rate: float) -> Measure:
    return proportion("accuracy", np.random.default_rng(seed).random(60) < rate)


def make_score(seed: int, name: str = "score") -> Measure:
    return mean(name, np.random.default_rng(seed).normal(size=60))


def one_each(scored: Mapping[str, Scored]) -> dict[str, Sequence[Trained]]:
    return {name: [Trained(f"sha of {name}", {s.subject: s})] for name, s in scored.items()}


def rows(found: Comparison) -> dict[tuple[str, str], ComparisonRecord]:
    return {(record.metric, record.model): record for record in found.records}


def test_every_model_is_compared_with_the_first() -> None:
    hits = {name: make_hits(seed, 0.6) for seed, name in enumerate("abc")}
    scores = {name: make_score(seed) for seed, name in enumerate("abc")}
    models = one_each({name: make_scored(hits[name], scores[name]) for name in "abc"})
    found = compare(models, SETTINGS)

    assert [(r.metric, r.model, r.against) for r in found.records] == [
        (metric, name, against)
        for metric in ("accuracy", "score")
        for name, against in (("a", None), ("b", "a"), ("c", "a"))
    ]
    record = rows(found)["accuracy", "b"]
    assert (record.n, record.n_groups, record.method) == (60, 60, "wilson")
    alone = wilson_interval(int(hits["b"].columns[:, 0].sum()), 60, 0.95)
    assert (record.value, record.low, record.high) == (alone.value, alone.low, alone.high)
    counts = mcnemar(hits["b"].columns[:, 0] > 0, hits["a"].columns[:, 0] > 0)
    assert (record.model_only, record.against_only) == (counts.a_only, counts.b_only)
    assert (record.p_value, record.test) == (counts.p_value, MCNEMAR)
    discordant = (counts.a_only + counts.b_only) / 60
    expected = minimum_detectable_paired_difference(60, discordant)
    assert record.minimum_detectable_difference == expected

    record = rows(found)["score", "c"]
    paired = paired_difference(scores["c"], scores["a"], ITEMS, SETTINGS.bootstrap)
    assert (record.difference, record.p_value) == (paired.value, paired.p_value)
    assert (record.difference_low, record.difference_high) == (paired.low, paired.high)
    assert (record.test, record.model_only) == (RANDOM_SWAPS, None)
    assert record.minimum_detectable_difference == detectable_by(paired.standard_error, freedom=59)
    assert found.notes == []


def test_the_reference_can_be_chosen() -> None:
    models = one_each({name: make_scored(make_score(seed)) for seed, name in enumerate("ab")})
    first = rows(compare(models, SETTINGS))["score", "b"]
    second = rows(compare(models, replace(SETTINGS, reference="b")))["score", "a"]
    assert first.difference == pytest.approx(-(second.difference or 0))
    assert second.against == "b"
    with pytest.raises(ConfigError, match="reference is 'c'; the models are a, b"):
        compare(models, replace(SETTINGS, reference="c"))


def test_p_values_are_corrected_for_all_tests_of_the_table() -> None:
    models = one_each(
        {
            name: make_scored(make_hits(seed, 0.3 + 0.2 * seed), make_score(seed))
            for seed, name in enumerate("abc")
        }
    )
    tested = [r for r in compare(models, SETTINGS).records if r.against is not None]
    assert len(tested) == 4
    assert [r.p_holm for r in tested] == holm([r.p_value or 0 for r in tested])
    only = compare(models, replace(SETTINGS, metrics=["accuracy"]))
    fewer = [r for r in only.records if r.against is not None]
    assert [r.p_holm for r in fewer] == holm([r.p_value or 0 for r in fewer])
    assert len(fewer) == 2


def test_the_main_figure_of_each_subject_is_compared_unless_others_are_asked_for() -> None:
    measures = [make_score(1, "perplexity"), make_score(2, "bits_per_byte")]
    documents = {"documents": make_scored(*measures, subject="documents")}
    qa = {"qa": make_scored(make_hits(1, 0.5), make_score(2))}
    models: Models = {name: [Trained(name, documents | qa)] for name in "ab"}
    main = compare(models, replace(SETTINGS, metrics=None))
    assert [(r.subject, r.metric) for r in main.records[::2]] == [
        ("documents", "perplexity"),
        ("qa", "accuracy"),
    ]
    other = replace(documents["documents"], tokenizer="another")
    models = {**models, "b": [Trained("b", {**qa, "documents": other})]}
    main = compare(models, replace(SETTINGS, metrics=None))
    assert {(r.subject, r.metric) for r in main.records} == {
        ("documents", "bits_per_byte"),
        ("qa", "accuracy"),
    }
    assert len(compare(models, SETTINGS).records) == 6


def test_items_in_another_order_give_the_same_rows() -> None:
    a, b = make_scored(make_score(1)), make_scored(make_score(2))
    order = np.random.default_rng(0).permutation(60)
    turned = replace(
        b,
        items=[ITEMS[i] for i in order],
        units=[ITEMS[i] for i in order],
        measures=[replace(b.measures[0], columns=b.measures[0].columns[order])],
    )
    one = compare(one_each({"a": a, "b": b}), SETTINGS)
    other = compare(one_each({"a": a, "b": turned}), SETTINGS)
    assert repr(one) == repr(other)  # nan does not equal itself


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": {"split": "val", "prompt": "v1"}}, "split is 'test' and 'val'"),
        ({"protocol": {"split": "test", "prompt": "v2"}}, "prompt is 'v1' and 'v2'"),
        ({"protocol": {"split": "test"}}, "prompt is 'v1' and None"),
        ({"items": [*ITEMS[:-1], "other"]}, "not the same items: 60 and 60, 59 of them in both"),
    ],
)
def test_what_is_not_the_same_question_is_refused(changes: dict[str, object], message: str) -> None:
    models = one_each({"a": make_scored(make_score(1)), "b": make_scored(make_score(2), **changes)})
    with pytest.raises(DataError, match=f"a and b must not be compared: qa: .*{message}"):
        compare(models, SETTINGS)


def test_figures_per_token_of_other_tokenizers_are_refused_or_left_out() -> None:
    measures = [make_score(1, "perplexity"), make_score(2, "bits_per_byte")]
    models = one_each(
        {"a": make_scored(*measures), "b": make_scored(*measures, tokenizer="another")}
    )
    found = compare(models, SETTINGS)
    assert {record.metric for record in found.records} == {"bits_per_byte"}
    assert found.notes == [
        "perplexity of qa is a figure per token, and the models have different tokenizers: left "
        "out, bits_per_byte compares them"
    ]
    with pytest.raises(DataError, match="different tokenizers; compare bits_per_byte instead"):
        compare(models, replace(SETTINGS, metrics=["perplexity"]))

    same = one_each({"a": make_scored(*measures), "b": make_scored(*measures)})
    assert {r.metric for r in compare(same, SETTINGS).records} == {"perplexity", "bits_per_byte"}


def test_what_was_not_evaluated_for_all_is_left_out_and_told() -> None:
    qa, notes = make_scored(make_score(1)), make_scored(make_score(1), subject="notes")
    models: Models = {
        "a": [Trained("x", {"qa": qa, "notes": notes})],
        "b": [Trained("y", {"qa": qa})],
    }
    found = compare(models, SETTINGS)
    assert {record.subject for record in found.records} == {"qa"}
    assert found.notes == ["notes is left out: not evaluated for b"]
    with pytest.raises(DataError, match="no source or task was evaluated for all models; a: notes"):
        compare({"a": [Trained("x", {"notes": notes})], "b": models["b"]}, SETTINGS)


def test_a_metric_of_some_models_is_left_out_and_an_unknown_one_refused() -> None:
    models = one_each(
        {"a": make_scored(make_score(1), make_hits(1, 0.5)), "b": make_scored(make_score(2))}
    )
    found = compare(models, SETTINGS)
    assert {record.metric for record in found.records} == {"score"}
    assert found.notes == ["accuracy of qa is left out: not measured for all"]
    with pytest.raises(ConfigError, match="metrics names f2; measured were score, accuracy"):
        compare(models, replace(SETTINGS, metrics=["score", "f2"]))


def test_seeds_become_one_row_with_their_scatter() -> None:
    seeds = [make_scored(make_hits(seed, 0.7)) for seed in range(3)]
    models: Models = {
        "base": [Trained("x", {"qa": make_scored(make_hits(9, 0.5))})],
        "tuned": [Trained(f"{n}", {"qa": scored}) for n, scored in enumerate(seeds)],
    }
    record = rows(compare(models, SETTINGS))["accuracy", "tuned"]
    values = [scored.measures[0].value for scored in seeds]
    assert record.seed_values == values
    assert record.value == pytest.approx(np.mean(values))
    assert record.deviation == pytest.approx(np.std(values, ddof=1))
    assert (record.method, record.test) == (SEEDS, SEEDS)
    assert (record.model_only, record.checkpoints) == (None, ["0", "1", "2"])
    assert record.difference_low is not None
    assert record.difference is not None
    assert record.difference_low < record.difference
    found = compare(models, SETTINGS)
    assert math.isnan(rows(found)["accuracy", "base"].deviation)
    assert found.notes == [
        "one seed only of base: intervals know nothing of its other seeds, and differences to a "
        "recipe of several take them to scatter as those"
    ]


def test_items_of_one_patient_are_no_independent_evidence() -> None:
    units = [f"patient {index // 10}" for index in range(60)]
    models = one_each(
        {
            "a": make_scored(make_hits(1, 0.5), units=units),
            "b": make_scored(make_hits(2, 0.5), units=units),
        }
    )
    record = rows(compare(models, SETTINGS))["accuracy", "b"]
    assert (record.n, record.n_groups) == (60, 6)
    assert (record.method, record.model_only) == ("bootstrap over groups", None)
    assert record.test == "swaps, exact"


def test_a_recipe_is_filtered_if_all_of_its_seeds_are() -> None:
    def trained(name: str, *words: str | None) -> list[Trained]:
        scored = [make_scored(make_score(1), filtered=word) for word in words]
        return [Trained(f"{name}{n}", {"qa": each}) for n, each in enumerate(scored)]

    models = {
        "a": trained("a", "filtered", "filtered"),
        "b": trained("b", "unknown", "filtered"),
        "c": trained("c", "unknown", "not filtered"),
        "d": trained("d", None, None),
    }
    found = {record.model: record.filtered for record in compare(models, SETTINGS).records}

    assert found == {"a": "filtered", "b": "unknown", "c": "not filtered", "d": None}


def test_bad_power_is_refused() -> None:
    with pytest.raises(ValueError, match=r"power must be .* at least 0\.5 and below 1, found 1"):
        ComparisonSettings(power=1.0)
