"""What TensorBoard knows of a run as a whole: the layout of its charts and its settings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG
from torch.utils.tensorboard import summary

from biomamba.training.callbacks.checkpoint import find_callbacks
from biomamba.training.callbacks.histograms import Histograms
from biomamba.training.chart_layout import LAYOUT_TAG, chart_layout
from biomamba.training.event_files import holds_tag
from biomamba.training.event_writers import writers_of
from biomamba.training.hyper_parameters import compared_metrics, hyper_parameters
from biomamba.training.module import LanguageModelingModule

_SUMMARIES: Any = summary  # torch says no types of it


class RunPage(lightning.Callback):
    """Writes the layout of the tab CUSTOM SCALARS and the row of the tab HPARAMS.

    Both once per run: a resumed one finds them in the event files of its first start. The figures
    of the row are the last points of the curves, so they are the final ones when the run is over.

    Args:
        config: The resolved configuration of the program.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Write both, before the first step."""
        assert isinstance(pl_module, LanguageModelingModule)
        has_layers = bool(find_callbacks(trainer, Histograms))
        weights, is_new = pl_module.source_weights, trainer.global_step == 0
        for writer in writers_of(trainer):
            folder = Path(writer.get_logdir())
            if is_new or not holds_tag(folder, LAYOUT_TAG):
                writer.add_custom_scalars(chart_layout(has_layers=has_layers))
            if is_new or not holds_tag(folder, SESSION_START_INFO_TAG):
                settings = hyper_parameters(self._config, pl_module.model, weights)
                metrics = dict.fromkeys(compared_metrics(weights), 0.0)
                experiment, start, _ = _SUMMARIES.hparams(settings, metrics)
                for part in (experiment, start):
                    writer._get_file_writer().add_summary(part)
            writer.flush()

    def on_train_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Say that the run is over."""
        for writer in writers_of(trainer):
            _, _, end = _SUMMARIES.hparams({}, {})
            writer._get_file_writer().add_summary(end)
