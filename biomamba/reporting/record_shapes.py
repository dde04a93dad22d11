"""The shapes of the records that programs write, as far as a report reads them."""

from biomamba.reporting.shapes import COUNT, FIGURE, LIST, OBJECT, TEXT, Each, Shape

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
    "parameters": {"total": COUNT, "trained": COUNT},
    "sources": Each(OBJECT),
    "realised": Each({"tokens": COUNT, "share": COUNT, "epochs": COUNT}),
    "before": Each(FIGURE),
    "after": Each(FIGURE),
    "selection": {"step": COUNT, "monitor": TEXT, "figure": FIGURE},
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
}
