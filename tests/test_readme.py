"""The README starts with the two commands, its example runs; tour and index are complete."""

import re
import subprocess
from pathlib import Path

import pytest

from biomamba.data.tokenizer import Tokenizer
from biomamba.model.backends.reference import ReferenceScan
from biomamba.model.checkpoint import save_pretrained
from biomamba.model.config import Mamba2Config
from biomamba.model.language_model import MambaLM

CHECKOUT = Path(__file__).resolve().parents[1]
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
ARCHITECTURE = (CHECKOUT / "docs" / "architecture.md").read_text(encoding="utf-8")
TOUR = re.search(r"^## Tour$.*?^```\n(.*?)^```$", ARCHITECTURE, re.MULTILINE | re.DOTALL)
INDEX = (CHECKOUT / "docs" / "index.md").read_text(encoding="utf-8")
# Of these the tour shows what is inside; of conf/ the groups alone.
SHOWN = ("biomamba", "conf")


def tracked() -> set[str]:
    done = subprocess.run(
        ["git", "ls-files"], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    if done.returncode != 0 or "README.md" not in done.stdout.split():
        pytest.skip("no git checkout: what belongs to the tree is not known")
    return set(done.stdout.split("\n")) - {""}


def real_tree() -> set[str]:
    names = set()
    for path in tracked():
        first, *rest = path.split("/")
        names.add(f"{first}/" if rest else first)
        if first in SHOWN and rest and (first != "conf" or len(rest) > 1):
            names.add(f"{first}/{rest[0]}/" if len(rest) > 1 else path)
    return names - {"biomamba/__init__.py"}


def told_tree() -> dict[str, str]:
    assert TOUR, "architecture.md has no tour"
    folder, told = "", {}
    for line in TOUR[1].splitlines():
        name, _, phrase = line.strip().partition(" ")
        if not line.startswith(" "):
            folder = name
        told[name if folder == name else f"{folder}{name}"] = phrase.strip()
    return told


def test_the_readme_begins_with_the_two_commands() -> None:
    assert README.startswith("# BioMamba\n\n```sh\nmake demo ")
    assert README.splitlines()[4].startswith("make test ")


def test_the_tour_is_the_real_tree() -> None:
    told = told_tree()
    assert sorted(told) == sorted(real_tree())
    assert all(told.values())


def test_the_index_holds_every_page() -> None:
    pages = {path for path in tracked() if re.fullmatch(r"docs/(howto/)?[\w-]+\.md", path)}
    linked = {f"docs/{path}" for path in re.findall(r"\]\(([\w/-]+\.md)\)", INDEX)}
    assert pages - {"docs/index.md"} <= linked


def test_the_example_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = Tokenizer.byte_tokenizer()
    config = Mamba2Config(
        d_model=8, n_layer=1, vocab_size=tokenizer.vocab_size, d_state=4, headdim=4
    )
    save_pretrained(MambaLM(config, ReferenceScan()), tmp_path)
    tokenizer.save(tmp_path / "tokenizer.json")
    (example,) = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)

    exec(example.replace("runs/demo/adapt/model", str(tmp_path)), {})  # noqa: S102

    nats = float(capsys.readouterr().out.removesuffix(" nats per token\n"))
    # Untrained: about the entropy of 257 equal ids, ln 257 = 5.55.
    assert 4 < nats < 8
