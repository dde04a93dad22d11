"""The pages: commands that compose, links and targets that exist, and who runs each block.

Above a block of commands is who runs it: `<!-- run: tests/test_x.py -->` names a test (with
`::part of it` if need be), `<!-- needs: a GPU, minutes -->` what keeps tests from it, and
`<!-- overrides: train data=instruct -->` the program that takes the overrides of the block. A line
that is nothing but a path in backquotes and a colon says that the block below is that file.
"""

import ast
import re
import shlex
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from biomamba.config.compose import composer

CHECKOUT = Path(__file__).resolve().parents[1]
PAGES = sorted([CHECKOUT / "README.md", *(CHECKOUT / "docs").rglob("*.md")])
LINKED = [*PAGES, CHECKOUT / "benchmarks" / "README.md"]
NEEDS = {
    "a GPU",
    "a cluster",
    "a licence",
    "the internet",
    "the raw files",
    "earlier runs",
    "minutes",
}
# Blocks that start with these lines are run there; the README opens with commands, not comments.
RUN_BY = {"make demo": "tests/test_cli.py"}
SHELL = ("sh", "bash")
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\s*$")
MARKER = re.compile(r"^ *<!-- (?P<kind>run|needs|overrides): (?P<value>.+) -->$")
FILE = re.compile(r"^`(?P<path>[\w./-]+\.\w+)`:$")
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
SCRIPTS = {"evaluate": "evaluate", "prepare": "prepare", "prepare_array": "prepare"}
SCRIPTS |= {"train": "train", "sweep": "train"}


@dataclass(frozen=True)
class Block:
    """A fenced block, with the lines of text before it that are no blank lines."""

    page: Path
    line: int
    language: str
    text: str
    above: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(CHECKOUT)}:{self.line}"

    @property
    def marker(self) -> tuple[str, str] | None:
        found = MARKER.match(self.above)
        return (found["kind"], found["value"]) if found else None

    @property
    def file(self) -> str | None:
        found = FILE.match(self.above)
        return found["path"] if found else None


def blocks_of(page: Path) -> list[Block]:
    found, above, inside = [], "", None
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        fence = FENCE.match(line)
        if inside is not None and fence and not fence["language"]:
            start, language, lines = inside
            found.append(Block(page, start, language, "\n".join(lines), above))
            inside, above = None, ""
        elif inside is not None:
            inside[2].append(line)
        elif fence:
            inside = (number, fence["language"], [])
        elif line.strip():
            above = line
    assert inside is None, f"{page}:{inside[0]}: the block has no end"
    return found


BLOCKS = [block for page in LINKED for block in blocks_of(page)]
COMMANDS = [block for block in BLOCKS if block.language in SHELL and block.page in PAGES]


def statements(text: str) -> Iterator[list[str]]:
    """Yield the words of each command of a block or a transcript; `#` starts a comment."""
    if any(line.startswith("$ ") for line in text.splitlines()):
        text = "\n".join(li[2:] for li in text.splitlines() if li.startswith(("$ ", "> ")))
    text = re.sub(r"\$?\([^()]*\)", "value", re.sub(r"\\\n\s*", " ", text))
    text = re.sub(r"<([\w .-]+)>", "placeholder", text)
    lexer = shlex.shlex(text, posix=True, punctuation_chars="|&;<>\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    words: list[str] = []
    for word in [*lexer, "\n"]:
        if set(word) <= set("|&;<>\n"):
            if words:
                yield words
            words = []
        else:
            words.append(word)


def without_comments(text: str) -> str:
    return re.sub(r"(^|\s)#.*$", r"\1", text, flags=re.MULTILINE)


def invocation(words: list[str]) -> tuple[str, list[str]] | None:
    """Return program and overrides of `python -m biomamba.x ...` or `sbatch slurm/x.sbatch ...`."""
    for place, word in enumerate(words):
        script = re.fullmatch(r"slurm/(\w+)\.sbatch", word)
        if script and "sbatch" in words[:place]:
            return SCRIPTS[script[1]], [w for w in words[place + 1 :] if is_override(w)]
        program = re.fullmatch(r"biomamba\.(\w+)", word)
        if program and words[place - 1] == "-m":
            return program[1], [w for w in words[place + 1 :] if is_override(w)]
    return None


def is_override(word: str) -> bool:
    """Tell words for Hydra from options and from the prompt, which generate takes out."""
    is_left_open = word.endswith(("...", "...]"))
    is_known = "=" in word or word.startswith("~")
    return is_known and not is_left_open and not word.startswith(("--", "$", "prompt="))


def invoked(text: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    if "biomamba." in text or "slurm/" in text:
        for words in statements(text):
            if found := invocation(words):
                yield found[0], tuple(found[1])


def invocations(page: Path) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield place, program and overrides of every command of a page, in blocks and in sentences."""
    for block in blocks_of(page):
        kind, value = block.marker or ("", "")
        text = without_comments(block.text)
        if kind == "overrides":
            program, *first = value.split()
            yield block.place, program, (*first, *(w for s in statements(text) for w in s))
        elif block.language in ("", *SHELL):
            yield from ((block.place, *found) for found in invoked(text))
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        for code in INLINE.findall(line):
            yield from ((f"{page.name}:{number}", *found) for found in invoked(code))


def files_of(page: Path, folder: Path) -> Path | None:
    """Write the YAML files that a page tells to add, for composing its commands."""
    for block in blocks_of(page):
        if block.file and block.file.startswith("conf/"):
            path = folder / block.file.removeprefix("conf/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text + "\n", encoding="utf-8")
    return folder if any(folder.iterdir()) else None


def page_id(page: Path) -> str:
    return page.relative_to(CHECKOUT).as_posix()


def is_group(word: str) -> bool:
    name = word.lstrip("+~").partition("=")[0].partition("@")[0]
    return (CHECKOUT / "conf" / name).is_dir()


def problems(program: str, found: dict[tuple[str, ...], str], extra: Path | None) -> Iterator[str]:
    """Yield what Hydra refuses; commands that choose the same options share one composition."""
    made: dict[tuple[str, ...], Any] = {}
    with composer(program, extra_dir=extra) as compose:
        for overrides, place in found.items():
            values = [w for w in overrides if not is_group(w)]
            is_plain = not any(w[0] in "~+" or "={" in w for w in values)
            chosen = tuple(w for w in overrides if is_group(w) or not is_plain)
            try:
                if chosen not in made:
                    made[chosen] = compose(chosen)
                for override in OverridesParser.create().parse_overrides(
                    values if is_plain else []
                ):
                    is_sweep = override.is_sweep_override()  # -m: the first run stands for all
                    value = next(override.sweep_iterator()) if is_sweep else override.value()
                    OmegaConf.update(made[chosen], override.key_or_group, value)
            except (HydraException, OmegaConfBaseException) as error:
                yield f"{place}: biomamba.{program} {' '.join(overrides)}: {error}"


@pytest.mark.slow
@pytest.mark.parametrize("page", LINKED, ids=page_id)
def test_every_command_composes(page: Path, tmp_path: Path) -> None:
    by_program: dict[str, dict[tuple[str, ...], str]] = defaultdict(dict)
    for place, program, overrides in invocations(page):
        by_program[program].setdefault(overrides, place)
    extra = files_of(page, tmp_path)
    wrong = []
    for program, found in by_program.items():
        if (CHECKOUT / "conf" / f"{program}.yaml").is_file():
            wrong += problems(program, found, extra)
        else:
            wrong.append(f"{next(iter(found.values()))}: there is no program {program}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("block", COMMANDS, ids=lambda block: block.place)
def test_every_block_says_who_runs_it(block: Block) -> None:
    kind, value = block.marker or ("", "")
    for line, test in RUN_BY.items():
        if block.text.startswith(line):
            kind, value = "run", test
    assert kind, (
        f"{block.place}: above this block belongs <!-- run: tests/<test>.py --> or "
        f"<!-- needs: one of {', '.join(sorted(NEEDS))} -->"
    )
    if kind == "needs":
        assert set(value.split(", ")) <= NEEDS, f"{block.place}: needs one of {sorted(NEEDS)}"
    elif kind == "run":
        path, _, part = value.partition("::")
        assert (CHECKOUT / path).is_file(), f"{block.place}: there is no {path}"
        assert part in (CHECKOUT / path).read_text(encoding="utf-8"), f"{block.place}: {part}"


@pytest.mark.parametrize("page", LINKED, ids=page_id)
def test_every_make_target_exists(page: Path) -> None:
    rules = re.findall(r"^([a-z-][a-z -]*):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE)
    targets = {name for rule in rules for name in rule.split()}
    codes = [*INLINE.findall(page.read_text()), *(block.text for block in blocks_of(page))]
    asked = {
        name for code in codes for name in re.findall(r"^make ([a-z][a-z-]*)", code, re.MULTILINE)
    }
    assert asked <= targets, f"no such targets: {sorted(asked - targets)}"


def anchors_of(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


@pytest.mark.parametrize("page", LINKED, ids=page_id)
def test_every_linked_file_exists(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        if ":" in path:
            continue
        target = page.parent / path if path else page
        assert target.exists(), f"{page_id(page)} links to {link}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors_of(target), f"{page_id(page)} links to {link}"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_names_of_the_package_in_code_exist(page: Path) -> None:
    for block in blocks_of(page):
        if block.language == "python":
            ast.parse(block.text)
        lines = re.findall(r"^from (biomamba[\w.]*) import ([\w, ]+)", block.text, re.MULTILINE)
        for module, names in lines:
            path = CHECKOUT / (module.replace(".", "/") + ".py")
            for name in names.strip().split(", "):
                if path.is_file():
                    found = re.search(rf"^(class|def) {name}\b|^{name}\b", path.read_text(), re.M)
                else:
                    found = (path.with_suffix("") / f"{name}.py").is_file() or None
                is_own = any(b.file == f"{module.replace('.', '/')}.py" for b in blocks_of(page))
                assert found or is_own, f"{block.place}: {module} has no {name}"


def test_commands_of_all_kinds_are_found() -> None:
    found = [each for page in LINKED for each in invocations(page)]
    assert len(found) > 60
    assert {"train", "prepare", "evaluate", "plan", "doctor", "export"} <= {f[1] for f in found}


def table_cells(page: Path, row: str) -> Iterator[list[str]]:
    """Yield the cells of the rows of tables that hold a cell of this text."""
    for line in page.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and row in cells:
            yield cells


@pytest.mark.parametrize("page", ["downstream.md", "reproduce_small/report.md"])
def test_results_quote_neither_interval_nor_p_value_of_a_calibration_error(page: str) -> None:
    # Resamples of one near 0 lie above it, and swaps of models test another hypothesis.
    rows = list(table_cells(CHECKOUT / "docs" / "results" / page, "calibration_error"))
    assert len(rows) == 2
    for cells in rows:
        assert not any("[" in cell for cell in cells)
        # The other numbers are n and values of three decimals: a p value would be one below 0.005.
        assert not {"0.001", "0.002", "0.004"} & set(cells)


def test_claims_beyond_what_was_measured_are_not_made() -> None:
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    assert "bit for bit" not in readme  # holds under conditions, which resume.md names
    ablations = (CHECKOUT / "docs" / "results" / "ablations.md").read_text(encoding="utf-8")
    for claim in ("at equal tokens, learning rate", "costs 0.01 to 0.06", "without a bend"):
        assert claim not in " ".join(ablations.split())
