"""What a run leaves behind besides curves: run.json and the model folder."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning

from biomamba.data.training_data import TrainingData
from biomamba.model.checkpoint import save_pretrained
from biomamba.model.mamba2 import Mamba2LM
from biomamba.runtime.atomic import write_json
from biomamba.runtime.ranks import is_rank_zero
from biomamba.training.module import LanguageModelingModule


class RunRecord:
    """run.json: rewritten whole by rank zero at each stage, so that it is never half a file."""

    def __init__(self, path: Path, provenance: Mapping[str, Any], datamodule: TrainingData) -> None:
        self._path = path
        self._record: dict[str, Any] = {
            "provenance": dict(provenance),
            "data_fingerprint": datamodule.fingerprint,
            "tokenizer_fingerprint": datamodule.tokenizer_fingerprint,
            "sources": {name: asdict(found) for name, found in datamodule.exposures.items()},
        }
        self._write()

    def add(self, stage: str, results: Sequence[Mapping[str, float]]) -> None:
        """Add the validation figures of a stage, as Trainer.validate returns them.

        JSON has no infinity and no nan: they become the words.
        """
        figures = {key: value for result in results for key, value in result.items()}
        self._record[stage] = {
            key: value if math.isfinite(value) else str(value) for key, value in figures.items()
        }
        self._write()

    def add_realised(self, realised: Mapping[str, Mapping[str, Any]]) -> None:
        """Add what the run has trained on, source by source."""
        self._record["realised"] = {name: dict(found) for name, found in realised.items()}
        self._write()

    def _write(self) -> None:
        if is_rank_zero():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._path, self._record)


def final_figures(
    trainer: lightning.Trainer, module: LanguageModelingModule, datamodule: TrainingData
) -> Sequence[Mapping[str, float]]:
    """Validate after the fit, unless its last step was followed by a validation already."""
    interval = trainer.val_check_batch
    if not isinstance(interval, int) or trainer.global_step % interval:
        return trainer.validate(module, datamodule, verbose=False)
    metrics = trainer.callback_metrics.items()
    wanted = {name: value for name, value in metrics if name == "step" or name.startswith("val/")}
    return [{name: float(value) for name, value in wanted.items()}]


def save_model(model: Mamba2LM, datamodule: TrainingData, folder: Path) -> Path:
    """Write the model in its published layout with the tokenizer of its data beside it."""
    save_pretrained(model, folder)
    datamodule.save_tokenizer(folder / "tokenizer.json")
    return folder
