"""What a paper has published."""

import math
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from biomamba.config.check import build
from biomamba.config.safety import conf_dir
from biomamba.reporting.paper import SCALES, Paper

GOOD: dict[str, Any] = {
    "title": "t",
    "source": "s",
    "subjects": ["web"],
    "values": {"accuracy": {"130m": 0.5}},
}
PAPERS = sorted((Path(conf_dir()) / "paper").glob("*.yaml"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"subjects": []}, "must name at least one"),
        ({"values": {}}, "must name at least one"),
        ({"values": {"a": {"7b": 1.0}}}, r"values\.a names 7b; allowed: 130m"),
        ({"values": {"a": {"130m": math.nan}}}, r"values\.a\.130m must be a number"),
        ({"protocol": {"luck": 1}}, "protocol names luck; allowed: tokens"),
        ({"num_hits_of": {"b": 1}}, "num_hits_of names b; allowed: accuracy"),
    ],
)
def test_a_paper_checks_itself(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Paper(**{**GOOD, **changes})


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_every_file_is_a_paper_with_all_scales_and_commands(path: Path) -> None:
    assert path.read_text().startswith(f"# @package report.papers.{path.stem}\n")
    paper: Paper = build(OmegaConf.load(path))
    assert all(set(values) == set(SCALES) for values in paper.values.values())
    assert paper.commands
    for value in (v for values in paper.values.values() for v in values.values()):
        assert ("perplexity" in paper.values) == (value > 1)  # shares are no percentages
