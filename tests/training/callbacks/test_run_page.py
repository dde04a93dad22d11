"""The layout of the charts and the row of settings: once per run, and what they say."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams.metadata import (
    EXPERIMENT_TAG,
    SESSION_END_INFO_TAG,
    SESSION_START_INFO_TAG,
    parse_experiment_plugin_data,
    parse_session_start_info_plugin_data,
)

from biomamba.training.callbacks.tensorboard import LAYOUT_TAG, Histograms, RunPage

NewRun = Callable[[str], Any]
CONFIG = {"model": {}, "seed": 3, "optimizer": {"lr": 0.01}, "max_tokens": 128}
ONCE = (LAYOUT_TAG, EXPERIMENT_TAG, SESSION_START_INFO_TAG, SESSION_END_INFO_TAG)


def written(folder: Path) -> list[str]:
    """Return the tags of all summaries, file by file, as often as they were written."""
    return [
        value.tag
        for path in sorted((folder / "tensorboard").glob("events*"))
        for event in LegacyEventFileLoader(str(path)).Load()
        for value in event.summary.value
    ]


def test_a_resumed_run_has_one_row_with_its_final_figures(small_run: NewRun) -> None:
    run = small_run("run")
    run.start([RunPage(CONFIG)], stop=5)
    run.start([RunPage(CONFIG)], resume=3)
    assert [written(run.folder).count(tag) for tag in ONCE] == [1, 1, 1, 1]
    metadata = run.events.SummaryMetadata
    started = metadata(SESSION_START_INFO_TAG).plugin_data.content
    told = parse_session_start_info_plugin_data(started).hparams
    assert told["model"].string_value == "random weights"
    assert told["seed"].number_value == 3
    assert told["lr"].number_value == 0.01
    assert told["mixture/pubmed"].number_value == 0.5
    experiment = parse_experiment_plugin_data(metadata(EXPERIMENT_TAG).plugin_data.content)
    metrics = [info.name.tag for info in experiment.metric_infos]
    # Their last points are the figures of the row.
    assert {"val/loss", "val/web/perplexity", "val/pubmed/bits_per_byte"} <= set(metrics)
    steps = run.steps()
    assert steps["val/web/perplexity"][-1] == 8
    assert all(len(found) == len(set(found)) for found in steps.values())


def test_a_run_that_broke_down_before_it_saved_begins_anew(small_run: NewRun) -> None:
    run = small_run("run")
    run.start([RunPage(CONFIG)], stop=2)
    whole = run.start([RunPage(CONFIG)]).steps()
    assert whole["train/loss"] == list(range(1, 9))
    assert whole["val/loss"] == [0, 2, 4, 6, 8]
    assert len(whole[LAYOUT_TAG]) == 1


def test_the_layout_names_curves_of_the_run(small_run: NewRun) -> None:
    run = small_run("run").start([RunPage(CONFIG), Histograms(4)])
    (event,) = run.events.Tensors(LAYOUT_TAG)
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    charts = {chart.title for category in layout.category for chart in category.chart}
    assert "gradient norm by layer, before clipping" in charts
    assert "bits per byte" in charts
