"""Recipes that answer one question."""

from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from biomamba.planning.plan import Actual
from biomamba.reporting.groups import RunGroup, difference_of, families_of
from biomamba.reporting.inputs import TrainingRun
from biomamba.runtime.errors import ConfigError

NOTHING = Actual(None, None, None, None, None, None, None)
MIX: dict[str, Any] = {
    "seed": 1,
    "max_tokens": 320_000,
    "data": {"packing": {"_target_": "biomamba.data.packing.BestFit"}, "weights": {"p": 0.8}},
    "objective": {"segment_tokens": None, "segment_state": "reset"},
    "model": {"static": []},
}


def group(name: str, **changes: Any) -> RunGroup:
    settings = {**MIX, **changes, "name": name}
    short = name.rpartition("/")[2]
    run = TrainingRun(
        name=short,
        folder=Path(short),
        record={},
        settings=settings,
        curves={},
        actual=NOTHING,
    )
    return RunGroup(short, (run,))


PADDED = {**MIX["data"], "packing": {"_target_": "biomamba.data.packing.SingleDocument"}}
GROUPS = [
    group("ablation/packing_leaky", objective={"segment_tokens": 512, "segment_state": "carry"}),
    group("ablation/packing_padded", data=PADDED),
    group("ablation/mix_80"),
    group("ablation/mix_60", data={**MIX["data"], "weights": {"p": 0.6}}),
    group("ablation/static_full", max_tokens=640_000, seed=2),
    group("ablation/static_all", max_tokens=640_000, seed=2, model={"static": ["dt", "B", "C"]}),
    group("scaling/tokens_80", max_tokens=80_000),
    group("cpt/other"),
]


def test_names_of_experiments_make_families_whatever_the_order() -> None:
    expected = {
        "ablation/packing": ("mix_80", {"packing_leaky", "packing_padded"}),
        "ablation/mix": ("mix_80", {"mix_60"}),
        "ablation/static": ("static_all", {"static_full"}),
        "scaling/tokens": ("mix_80", {"tokens_80"}),
    }
    for order in list(permutations(GROUPS))[::4_001]:
        found = families_of(order)
        told = {
            family.name: (family.reference.name, {g.name for g in family.groups[1:]})
            for family in found.found
        }
        assert told == expected


def test_a_treatment_is_told_by_its_settings() -> None:
    leaky, padded, mix, *_ = GROUPS
    assert difference_of(leaky, mix) == "segment_tokens 512, segment_state carry"
    assert difference_of(padded, mix) == "packing SingleDocument"
    assert difference_of(GROUPS[4], mix) == "max_tokens 640,000"
    assert difference_of(mix, GROUPS[-1]) == "nothing but the name"
    many = group("x", **{f"k{number}": number for number in range(6)})
    assert difference_of(many, mix).endswith("k3 3, 2 more")


def test_families_are_named_by_patterns_with_the_reference_first() -> None:
    wanted = {"rows": ["packing_leaky", "packing_*", "none_*"], "alone": ["cpt/other"]}
    found = families_of(GROUPS, wanted)
    (family,) = found.found
    assert [g.name for g in family.groups] == ["packing_leaky", "packing_padded"]
    assert list(found.notes) == [
        "rows: no run is named none_*.",
        "alone is left out: it needs its reference and one more recipe.",
    ]
    with pytest.raises(ConfigError, match=r"report\.families\.x must list names of recipes"):
        families_of(GROUPS, {"x": "packing_*"})
