"""The pages of docs/howto that add something: files and commands, in a copy of the checkout."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from biomamba.data.ledger import Ledger

CHECKOUT = Path(__file__).resolve().parents[1]
HOWTO = CHECKOUT / "docs" / "howto"
COPIED = ("biomamba", "conf", "tests", "pyproject.toml")
FILE = re.compile(r"^`([\w./-]+)`:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMANDS = re.compile(
    r"^<!-- run: tests/test_howto.py -->\n```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def follow(page: str, folder: Path) -> str:
    """Put the files of a page into a copy, run its commands and return what they print."""
    for name in COPIED:
        source, ignored = CHECKOUT / name, shutil.ignore_patterns("__pycache__")
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=ignored)
        else:
            shutil.copy(source, folder / name)
    text = (HOWTO / page).read_text(encoding="utf-8")
    for path, content in FILE.findall(text):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content, encoding="utf-8")
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(folder),
    }
    commands = "\n".join(COMMANDS.findall(text))
    assert commands, f"{page} has nothing to run"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{commands}\n{done.stdout[-3_000:]}\n{done.stderr[-3_000:]}"
    return done.stdout


def steps_of(run_dir: Path) -> int:
    record = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
    assert record["starts"][-1]["end"] == "finished"
    return Ledger(run_dir / "ledger").num_steps


def test_a_corpus_of_the_page_is_prepared(tmp_path: Path) -> None:
    printed = follow("add_a_corpus.md", tmp_path)

    manifest = json.loads((tmp_path / "data/guidelines/guidelines/MANIFEST.json").read_text())
    assert "passed" in printed
    assert "too old" in json.dumps(manifest)
    assert "as the publisher states" in json.dumps(manifest)


def test_a_task_of_the_page_passes_the_contract(tmp_path: Path) -> None:
    printed = follow("add_a_task.md", tmp_path)

    # Every test of one task, and the two over all tasks.
    assert int(re.findall(r"(\d+) passed", printed)[0]) >= 12


@pytest.mark.slow_extra
def test_a_scale_of_the_page_trains_two_steps(tmp_path: Path) -> None:
    printed = follow("add_a_scale.md", tmp_path)

    said = re.search(
        r"# ([\d,]+) parameters", (tmp_path / "conf/model/mamba2_mini.yaml").read_text()
    )
    assert said
    assert f"model: {said[1]} parameters" in printed
    assert steps_of(tmp_path / "runs/mini/pretrain/first") == 2


def test_a_backend_of_the_page_passes_the_parity_test(tmp_path: Path) -> None:
    printed = follow("add_a_backend.md", tmp_path)

    assert int(re.findall(r"(\d+) passed", printed)[0]) > 20
