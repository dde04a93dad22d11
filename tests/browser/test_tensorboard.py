"""TensorBoard in a real browser: what a run is expected to show is drawn."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

import pytest

pytestmark = pytest.mark.browser

SIZE = {"viewport": {"width": 1_280, "height": 860}}
PANE = {"x": 322, "y": 66, "width": 958, "height": 794}  # without the names of folders


@pytest.fixture(scope="module")
def address(run_folder: Path) -> Iterator[str]:
    """Start TensorBoard on a free port of this machine."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(run_folder.parent)]
    options = ["--host", "127.0.0.1", "--port", "0", "--load_fast", "true"]
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        lines = []
        for line in server.stderr:
            lines.append(line)
            if found := re.search(r" at (http://127\.0\.0\.1:\d+)/", line):
                break
        else:
            raise AssertionError("".join(lines))
        yield found[1]
        server.terminate()
        server.communicate()


def ask(address: str, path: str) -> Any:
    with urlopen(f"{address}/data/{path}") as answer:
        return json.load(answer)


def test_every_point_of_a_resumed_run_is_there_once(address: str, screen: Any) -> None:
    runs = ask(address, "runs")
    assert runs == ["adapt/tensorboard"]
    run = quote(runs[0], safe="")
    scalars = ask(address, "plugin/scalars/tags")[runs[0]]
    texts = ask(address, "plugin/text/tags")[runs[0]]
    for tag in scalars:
        points = ask(address, f"plugin/scalars/scalars?run={run}&tag={quote(tag, safe='')}")
        steps = [point[1] for point in points]
        assert steps == sorted(set(steps)), tag
        if tag == "train/loss":
            assert steps == list(range(1, 25))
    assert [tag[:10] for tag in sorted(texts)] == ["samples/01", "samples/02", "samples/03"]
    for tag in texts:
        points = ask(address, f"plugin/text/text?run={run}&tag={quote(tag, safe='')}")
        assert [point["step"] for point in points] == [0, 4, 8, 12, 16, 20, 24]


CHARTS = [
    "training and validation (nats per token)",
    "nll (nats per token)",
    "perplexity",
    "bits per byte",
]
TABS = {
    "scalars": ["data/tokens", "gradient_norm/layer_00", "throughput", "train", "val"],
    "custom_scalars": ["loss", "validation by source", "steps", "machine", "Matches (3)", *CHARTS],
    "hparams": ["trained_parameters", "mixture/web", "val/web/perplexity"],
    "text": ["samples/01", "Aspirin is used to treat", "step 24"],
    "histograms": ["A/layer_00", "dt/layer_01"],
}


@pytest.mark.parametrize("tab", TABS)
def test_a_tab_shows_the_run(address: str, screen: Any, tab: str) -> None:
    window = screen.open(**SIZE)
    window.page.goto(f"{address}/?forceSVG=true#{tab}", wait_until="load")
    try:
        window.wait_for(*TABS[tab])
        if tab in {"scalars", "custom_scalars"}:
            window.page.locator("vz-line-chart2 path").first.wait_for(state="attached")
        window.page.wait_for_timeout(1_500)  # the charts move into their places
    finally:
        window.picture(f"tensorboard_{tab}", clip=PANE)
    assert window.errors == []
    away = [url for url in window.asked if not url.startswith((address, "data:", "blob:"))]
    assert away == []
    window.page.close()
