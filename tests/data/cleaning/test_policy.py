"""The marks on a batch and the settings that decide them."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig

from biomamba.config.check import build
from biomamba.data.cleaning.benchmark_filter import HIT_DTYPE, Firewall
from biomamba.data.cleaning.benchmarks import TextColumns
from biomamba.data.cleaning.near_duplicates import NearDuplicates, bands_and_rows
from biomamba.data.cleaning.policy import Cleaning
from biomamba.data.document import Document
from biomamba.runtime.errors import ConfigError, DataError

DOCUMENTS = [
    Document(text, str(place), "web") for place, text in enumerate(["One two.", "", "one TWO", "x"])
]


def test_marks_have_a_row_per_document() -> None:
    near = NearDuplicates()
    marks = Cleaning(near_duplicates=near).marks(DOCUMENTS)

    assert marks.text.shape == (4,)
    assert marks.text.dtype == marks.bands.dtype == np.uint64
    assert marks.bands.shape == (4, bands_and_rows(near.threshold, near.num_perm)[0])
    assert marks.hits.dtype == HIT_DTYPE
    assert marks.text[0] == marks.text[2]
    assert np.array_equal(marks.bands[0], marks.bands[2])


def test_without_near_duplicates_there_are_no_bands() -> None:
    assert Cleaning().marks(DOCUMENTS).bands.shape == (4, 0)
    assert Cleaning(near_duplicates=NearDuplicates()).marks([]).text.shape == (0,)


def test_marks_do_not_depend_on_the_batch() -> None:
    cleaning = Cleaning(near_duplicates=NearDuplicates())
    whole = cleaning.marks(DOCUMENTS)
    alone = [cleaning.marks([document]) for document in DOCUMENTS]

    assert whole.text.tolist() == [int(marks.text[0]) for marks in alone]
    assert whole.bands.tolist() == [marks.bands[0].tolist() for marks in alone]


def test_every_option_is_in_the_settings() -> None:
    policies = [
        Cleaning(),
        Cleaning(exact_duplicates=False),
        Cleaning(near_duplicates=NearDuplicates()),
        Cleaning(near_duplicates=NearDuplicates(drop=True)),
        Cleaning(near_duplicates=NearDuplicates(threshold=0.8)),
        Cleaning(near_duplicates=NearDuplicates(num_perm=64)),
        Cleaning(near_duplicates=NearDuplicates(ngram_words=5)),
        Cleaning(firewall=Firewall(ngram_words=8)),
        Cleaning(firewall=Firewall(min_ngrams=1)),
        Cleaning(max_document_characters=100),
    ]

    assert len({json.dumps(policy.settings(), sort_keys=True) for policy in policies}) == len(
        policies
    )


def test_records_without_a_limit_on_the_length_stay_valid() -> None:
    settings = {"marks_version", "exact_duplicates", "near_duplicates", "firewall"}

    assert set(Cleaning().settings()) == settings
    assert set(Cleaning(max_document_characters=100).settings()) == settings | {
        "max_document_characters"
    }


@pytest.mark.parametrize("limit", [0, -1, 1.5, None])
def test_a_limit_on_the_length_is_a_whole_number(limit: Any) -> None:
    with pytest.raises(ConfigError, match="max_document_characters must be a whole number"):
        Cleaning(max_document_characters=limit)


def test_a_firewall_without_benchmarks_is_told() -> None:
    (notice,) = Cleaning().notices()

    assert "benchmark=[" in notice


def test_what_is_kept_out_is_told_after_its_files_were_read(tmp_path: Path) -> None:
    path = tmp_path / "set.csv"
    path.write_text("q\nshort\n" + "long " * 13 + "\n")
    benchmark = TextColumns([str(path)], ["q"])
    (notice,) = Cleaning(firewall=Firewall({"house": benchmark})).notices()
    path.unlink()

    assert notice == (
        "kept out of these documents: house (2 items); 1 items have fewer than 13 words"
    )
    with pytest.raises(DataError, match="does not exist"):
        Cleaning(firewall=Firewall({"house": benchmark})).notices()


def test_the_policy_travels_to_worker_processes() -> None:
    cleaning = Cleaning(near_duplicates=NearDuplicates())

    assert pickle.loads(pickle.dumps(cleaning)) == cleaning


def test_the_config_chooses_benchmarks_by_name(compose: Callable[..., DictConfig]) -> None:
    by_default = build(compose("prepare").cleaning)
    chosen = build(
        compose("prepare", "benchmark=[bioasq,pubmedqa]", "cleaning.near_duplicates=null").cleaning
    )

    assert by_default == Cleaning(near_duplicates=NearDuplicates())
    assert set(chosen.firewall.benchmarks) == {"bioasq", "pubmedqa"}
    assert chosen.near_duplicates is None
