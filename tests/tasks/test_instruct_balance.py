"""Ratios of labels and weights of classes."""

from collections import Counter

import pytest

from biomamba.runtime.errors import ConfigError
from biomamba.tasks.instruct import LabelBalance
from biomamba.tasks.instruct_samples import Sample, Samples


def samples(**counts: int) -> Samples:
    """Return so many samples of each label; `free` stands for none."""
    found = []
    for label, count in counts.items():
        for number in range(count):
            name = f"{label}-{number}"
            own = None if label == "free" else label
            found.append(Sample(name, own, name, [1, 2, 0], 1, 3))
    return Samples(found, len(found), {"no target": 1})


def keep(given: Samples, seed: int = 0, **ratio: float) -> Samples:
    return LabelBalance(ratios={"task": ratio}).keep("task", given, seed)


def test_the_released_balances_of_bioasq_come_out() -> None:
    """1,072 yes and 390 no became 724 and 390, or 390 of each."""
    bioasq = samples(yes=1072, no=390)

    assert keep(bioasq, yes=65, no=35).labels == {"no": 390, "yes": 724}
    assert keep(bioasq, yes=0.65, no=0.35).labels == {"no": 390, "yes": 724}
    assert keep(bioasq, yes=50, no=50).labels == {"no": 390, "yes": 390}


@pytest.mark.parametrize("parts", [(1, 1), (3, 2), (65, 35), (1, 9)])
def test_as_much_is_kept_as_the_ratio_allows(parts: tuple[int, int]) -> None:
    found = keep(samples(yes=97, no=31), yes=parts[0], no=parts[1]).labels

    assert found["yes"] == 97 or found["no"] == 31
    # One more would be too much.
    assert abs(found["yes"] * parts[1] - found["no"] * parts[0]) < max(parts)


def test_labels_that_are_not_named_stay_and_so_does_the_order() -> None:
    found = keep(samples(maybe=5, yes=20, no=10, free=3), yes=1, no=1)

    assert found.labels == {"maybe": 5, "no": 10, "yes": 10}
    assert Counter(s.label for s in found.samples)[None] == 3
    kinds = [sample.id.split("-")[0] for sample in found.samples]
    assert list(dict.fromkeys(kinds)) == ["maybe", "yes", "no", "free"]


def test_what_is_left_out_is_counted_beside_the_rest() -> None:
    assert keep(samples(yes=30, no=10), yes=1, no=1).rejects == {
        "no target": 1,
        "surplus of a label": 20,
    }


def test_the_choice_depends_on_seed_and_id_alone() -> None:
    given = samples(yes=200, no=50)
    turned = Samples(given.samples[::-1])
    ids = [{sample.id for sample in keep(s, 3, yes=1, no=1).samples} for s in (given, turned)]
    other = {sample.id for sample in keep(given, 4, yes=1, no=1).samples}

    assert ids[0] == ids[1] != other


def test_without_a_ratio_nothing_is_left_out() -> None:
    given = samples(yes=3, no=1)

    assert LabelBalance(ratios={"other": {"yes": 1, "no": 1}}).keep("task", given, 0) is given


def test_classes_weigh_alike_and_a_sample_weighs_one_on_average() -> None:
    given = samples(yes=276, no=169, maybe=55)
    found = LabelBalance(class_weighted=True).weights(given)
    by_class = {label: found[label] * count for label, count in given.labels.items()}

    for total in by_class.values():
        assert total == pytest.approx(500 / 3, rel=1e-3)
    assert sum(by_class.values()) / 500 == pytest.approx(1, rel=1e-3)


def test_sums_of_weights_are_exact_in_any_order() -> None:
    weights = LabelBalance(class_weighted=True).weights(samples(yes=7, no=3, maybe=997))

    assert all((weight * 2**12).is_integer() and weight > 0 for weight in weights.values())


@pytest.mark.parametrize("class_weighted", [True, False])
def test_free_texts_have_no_weights(class_weighted: bool) -> None:
    assert LabelBalance(class_weighted=class_weighted).weights(samples(free=3)) == {}


def test_nothing_is_weighed_unless_asked_for() -> None:
    assert LabelBalance().weights(samples(yes=3, no=1)) == {}


def test_a_label_without_samples_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"labels \['nein'\]; its training labels: .*'yes': 3"):
        keep(samples(yes=3, no=1), yes=1, nein=1)


@pytest.mark.parametrize("ratio", [{"yes": 1}, {"yes": 1, "no": 0}, {"yes": 1, "no": -1}])
def test_impossible_ratios_are_refused(ratio: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"balance\.ratios(\.task\.no must| of task is)"):
        LabelBalance(ratios={"task": ratio})


def test_a_ratio_of_an_unknown_task_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"names \['task'\]; the tasks: other"):
        LabelBalance(ratios={"task": {"yes": 1, "no": 1}}).check_tasks(["other"])
