"""The shapes of the records that programs write, as far as others read them."""

from pathlib import Path
from typing import Any

from biomamba.runtime.errors import BioMambaError, DataError
from biomamba.runtime.input_files import (
    COUNT,
    FIGURE,
    LIST,
    OBJECT,
    TEXT,
    Each,
    Shape,
    read_json,
)

_GIT: Shape = {"commit": TEXT}
_MACHINE: Shape = {"cpu": TEXT, "gpus": Each((str, dict), is_list=True)}
PROVENANCE: Shape = {
    "argv": LIST,
    "config_sha256": TEXT,
    "data_fingerprint": TEXT,
    "git": _GIT,
    "machine": _MACHINE,
    "checkpoints": Each({"path": TEXT, "sha256": TEXT}),
    "resumes": Each({"argv": LIST, "git": _GIT, "machine": _MACHINE}, is_list=True),
}
RUN: Shape = {
    "provenance": PROVENANCE,
    "data_fingerprint": TEXT,
    "restricted": Each(TEXT, is_list=True),
    "parameters": {"total": COUNT, "trained": COUNT},
    "sources": Each({"num_documents": COUNT, "num_tokens": COUNT}),
    "data": {
        "stores": Each(Each({"newest_year": COUNT}, is_list=True)),
        "tasks": Each({"access": TEXT}),
    },
    "realised": Each({"tokens": COUNT, "share": COUNT, "epochs": COUNT}),
    "before": Each(FIGURE),
    "after": Each(FIGURE),
    "selection": {"step": COUNT, "monitor": TEXT, "figure": FIGURE, "stopped_at_step": COUNT},
    "starts": Each({"end": TEXT, "world_size": COUNT}, is_list=True),
}
_LINE: dict[str, Shape] = {
    "model": TEXT,
    "split": TEXT,
    "metric": TEXT,
    "value": COUNT,
    "low": COUNT,
    "high": COUNT,
    "level": COUNT,
    "provenance": PROVENANCE,
}
RESULT: Shape = {
    **_LINE,
    "source": TEXT,
    "num_documents": COUNT,
    "num_tokens": COUNT,
    "num_bytes": COUNT,
    "first_position": COUNT,
    "end_position": COUNT,
}
TASK_RESULT: Shape = {
    **_LINE,
    "task": TEXT,
    "protocol": TEXT,
    "method": TEXT,
    "n": COUNT,
    "n_groups": COUNT,
    "prompt": TEXT,
    "prompt_fingerprint": TEXT,
    "checkpoint_sha256": TEXT,
    "data_fingerprint": TEXT,
    "minimum_detectable_difference": COUNT,
    "p_value": COUNT,
    "against": TEXT,
    "answer": OBJECT,
    "mcnemar": {"p_value": COUNT},
    "rejects": Each(COUNT),
    "filtered": TEXT,
    "filter_reasons": LIST,
}


def read_run_record(path: Path, error: type[BioMambaError] = DataError) -> dict[str, Any]:
    """Return the run.json of a run without what is null, which was not known.

    Raises:
        FileNotFoundError: There is none.
        BioMambaError: Of class `error`: it cannot be read or is no record of a run.
    """
    record: dict[str, Any] = read_json(path, RUN, error=error)
    return {key: value for key, value in record.items() if value is not None}
