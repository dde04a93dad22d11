"""Which adapter a checkpoint gets."""

from pathlib import Path
from typing import Any

import pytest

from biomamba.evaluation.models.causal import TransformersCausal
from biomamba.evaluation.models.extractive import ExtractiveReader
from biomamba.evaluation.models.opening import is_baseline, open_baseline
from biomamba.evaluation.models.sequence_to_sequence import TransformersSeq2Seq
from biomamba.runtime.errors import CheckpointError, ConfigError


def test_every_kind_gets_its_adapter(save_model: Any, save_reader: Any, tmp_path: Path) -> None:
    save_reader(tmp_path, ["some words"])
    folders = {
        save_model("biogpt"): TransformersCausal,
        save_model("t5"): TransformersSeq2Seq,
        tmp_path: ExtractiveReader,
    }
    for folder, adapter in folders.items():
        found = open_baseline(f"hf:{folder}", label="other")
        assert type(found) is adapter
        assert (found.label, found.checkpoint) == ("other", f"hf:{folder}")
        assert len(found.checkpoint_sha256) == len(found.tokenizer.fingerprint) == 64


def test_our_own_models_are_none(save_model: Any) -> None:
    assert is_baseline("hf:microsoft/biogpt")
    assert not is_baseline("state-spaces/mamba2-130m")
    for source in (str(save_model("mamba2")), "hf:"):
        with pytest.raises(ConfigError, match="another model is named hf:"):
            open_baseline(source, label="other")


def test_a_name_that_leads_nowhere_is_refused() -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        open_baseline("hf:no such place", label="other")
