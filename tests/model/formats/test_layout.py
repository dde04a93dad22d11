from dataclasses import fields

import pytest

from biomamba.model.config import Mamba1Config, Mamba2Config, MambaConfig
from biomamba.model.formats.detect import LAYOUTS, layout_for
from biomamba.model.formats.layouts import STATE_SPACES_MAMBA2, TRANSFORMERS_MAMBA2, Layout
from biomamba.model.formats.tensors import parameter_shapes
from biomamba.runtime.errors import CheckpointError

LAYOUT = STATE_SPACES_MAMBA2
RAW = {"d_model": 64, "n_layer": 2, "vocab_size": 37, "ssm_cfg": {"layer": "Mamba2"}}


def name_of(layout: Layout) -> str:
    return f"{layout.name}-{layout.config_class.layer}"


def test_missing_keys_are_listed() -> None:
    with pytest.raises(CheckpointError, match="d_model is missing; vocab_size is missing"):
        LAYOUT.parse({"n_layer": 2, "ssm_cfg": {"layer": "Mamba2"}}, "config.json")


def test_all_problems_are_listed_at_once() -> None:
    raw = RAW | {"dropout": 0.1, "ssm_cfg": {"layer": "Mamba2", "bias": True}}

    with pytest.raises(CheckpointError, match=r"ssm_cfg.bias .*; dropout"):
        LAYOUT.parse(raw, "config.json")


def test_tied_head_has_no_name_and_another_one_has() -> None:
    tied = Mamba2Config(d_model=64, n_layer=1, vocab_size=37)
    untied = Mamba2Config(d_model=64, n_layer=1, vocab_size=37, tie_embeddings=False)

    assert "lm_head.weight" not in LAYOUT.stored_names(tied)
    assert LAYOUT.stored_names(untied)["lm_head.weight"] == "lm_head.weight"


@pytest.mark.parametrize("layout", [STATE_SPACES_MAMBA2, TRANSFORMERS_MAMBA2], ids=name_of)
def test_both_names_of_the_embedding_are_read(layout: Layout) -> None:
    names = layout.own_names(Mamba2Config(d_model=64, n_layer=1, vocab_size=37))

    for stored in ("backbone.embedding.weight", "backbone.embeddings.weight"):
        assert names[stored] == "backbone.embedding.weight"


@pytest.mark.parametrize("layout", LAYOUTS, ids=name_of)
def test_table_is_sound(layout: Layout) -> None:
    """No key has two meanings that could disagree, and each names something that there is."""
    meanings = [layout.fields, layout.derived, layout.repeated, layout.fixed]
    keys = [key for table in meanings for key in table]
    assert len(keys) == len(set(keys))
    assert not layout.ignored & set(keys)
    assert layout.optional <= layout.fields.keys()
    assert {*layout.required} <= layout.fields.keys() | layout.derived.keys()
    for name in (*layout.derived.values(), *layout.repeated.values()):
        assert hasattr(layout.config_class, name) or name in layout.fields.values()
    known = {field.name for field in fields(layout.config_class)}
    unsaid = known - set(layout.fields.values())
    assert unsaid <= {"rms_norm", "static"}, "a field of the config that no key carries"


@pytest.mark.parametrize("layout", LAYOUTS, ids=name_of)
def test_static_parameters_are_said_or_refused(layout: Layout) -> None:
    config = layout.config_class(d_model=64, n_layer=2, vocab_size=37, static=["dt", "C"])
    if layout.name == "transformers":
        with pytest.raises(CheckpointError, match=r"transformers: cannot hold .* static is"):
            layout.render(config)
    else:
        raw = layout.render(config)
        assert raw["biomamba"] == {"static": ["dt", "C"]}
        assert layout.parse(raw, "config.json") == config


@pytest.mark.parametrize("kind", [Mamba1Config, Mamba2Config])
def test_a_config_that_is_not_static_says_nothing_of_it(kind: type[MambaConfig]) -> None:
    config = kind(d_model=64, n_layer=2, vocab_size=37)
    raw = layout_for(config, "state_spaces").render(config)

    assert "biomamba" not in raw


@pytest.mark.parametrize("kind", [Mamba1Config, Mamba2Config])
@pytest.mark.parametrize("static", [["dt"], ["B"], ["C"], ["dt", "B", "C"]])
def test_every_static_parameter_has_a_name(kind: type[MambaConfig], static: list[str]) -> None:
    config = kind(d_model=64, n_layer=2, vocab_size=37, static=static)
    ordinary = kind(d_model=64, n_layer=2, vocab_size=37)
    names = layout_for(config, "state_spaces").stored_names(config)

    assert parameter_shapes(config).keys() <= names.keys()
    assert parameter_shapes(config) != parameter_shapes(ordinary)
