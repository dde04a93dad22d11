"""The shape of the code: layers, banned imports and names, sizes, and tests that mirror modules."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
PACKAGE = CHECKOUT / "biomamba"
TESTS = CHECKOUT / "tests"
OTHER_TESTS = {TESTS / "slurm", TESTS / "browser"}  # of whole programs, with modules of their own
PROGRAMS = (
    "prepare",
    "verify",
    "train",
    "ledger",
    "evaluate",
    "generate",
    "export",
    "report",
    "compare",
    "audit",
    "plan",
    "doctor",
    "efficiency",
    "reproduce",
)
# Lowest first. Packages on one line may not import each other.
LAYERS: list[set[str]] = [
    {"runtime"},
    {"config", "metrics"},
    {"data", "model"},
    {"tasks", "inference"},
    {"training"},
    {"evaluation", "planning", "timing"},
    {"reporting", "diagnosis", "workflow"},
    set(PROGRAMS),
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
BANNED_NAMES = {"utils", "util", "common", "helpers", "helper", "misc"}
KERNEL_PACKAGES = {"mamba_ssm", "causal_conv1d"}
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 50

MODULES = sorted(PACKAGE.rglob("*.py"))
SOURCES = [path for path in MODULES if path.name != "__init__.py"]


def module_id(path: Path) -> str:
    return path.relative_to(CHECKOUT).as_posix()


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_names(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def internal_modules(path: Path) -> set[Path]:
    """Return the files of the package that a file imports."""
    found = set()
    for name in imported_names(path):
        parts = name.split(".")
        for length in (len(parts), len(parts) - 1):
            candidate = PACKAGE.parent.joinpath(*parts[:length]).with_suffix(".py")
            if parts[0] == "biomamba" and candidate.is_file():
                found.add(candidate)
                break
    return found


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("path", SOURCES, ids=module_id)
def test_imports_point_to_lower_layers(path: Path) -> None:
    own = layer_of(path)
    layers = {name.split(".")[1] for name in imported_names(path) if name.startswith("biomamba.")}
    upward = {name for name in layers & LEVEL.keys() if name != own and LEVEL[name] >= LEVEL[own]}

    assert not upward, f"{module_id(path)} is in layer {own} and may not import {sorted(upward)}"


def test_every_package_has_a_layer() -> None:
    folders = {child.name for child in PACKAGE.iterdir() if (child / "__init__.py").is_file()}

    assert folders == set(LEVEL) - set(PROGRAMS)


def test_every_package_travels_in_the_wheel() -> None:
    listed = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent.relative_to(CHECKOUT) for path in PACKAGE.rglob("__init__.py")}

    there = {".".join(folder.parts) for folder in folders}
    assert set(listed["packages"]) == there | {"biomamba.conf"}


def test_modules_import_each_other_without_cycles() -> None:
    graph = {path: internal_modules(path) for path in MODULES}
    while leaves := [path for path, needed in graph.items() if not needed & graph.keys()]:
        for path in leaves:
            del graph[path]

    assert not graph, f"import cycle among {sorted(map(module_id, graph))}"


@pytest.mark.parametrize("path", MODULES, ids=module_id)
def test_module_name_says_what_it_holds(path: Path) -> None:
    assert path.stem not in BANNED_NAMES


@pytest.mark.parametrize("path", MODULES, ids=module_id)
def test_kernels_are_imported_by_the_fused_backend_only(path: Path) -> None:
    roots = {name.split(".")[0] for name in imported_names(path)}

    if path != PACKAGE / "model" / "backends" / "fused.py":
        assert not roots & KERNEL_PACKAGES


@pytest.mark.parametrize("path", MODULES, ids=module_id)
def test_config_objects_stay_in_the_config_layer_and_the_programs(path: Path) -> None:
    roots = {name.split(".")[0] for name in imported_names(path)}

    if layer_of(path) not in {"config", *PROGRAMS}:
        assert not roots & {"omegaconf", "hydra"}


@pytest.mark.parametrize("path", MODULES, ids=module_id)
def test_sizes_stay_below_the_ceilings(path: Path) -> None:
    num_lines = len(path.read_text(encoding="utf-8").splitlines())
    long = {
        f.name: size
        for f in functions(path)
        if (size := (f.end_lineno or f.lineno) - f.lineno + 1) > MAX_FUNCTION_LINES
    }

    assert num_lines <= MAX_FILE_LINES
    assert not long


@pytest.mark.parametrize("path", SOURCES, ids=module_id)
def test_module_has_a_test_file_of_its_name(path: Path) -> None:
    place = path.relative_to(PACKAGE)
    if place.with_suffix("").as_posix() not in PROGRAMS:
        mirror = TESTS / place.parent / f"test_{path.name}"
        assert mirror.is_file(), f"{module_id(path)} has no {module_id(mirror)}"


@pytest.mark.parametrize(
    "path",
    sorted(path for path in TESTS.glob("*/**/test_*.py") if path.parent not in OTHER_TESTS),
    ids=module_id,
)
def test_test_file_has_a_module_of_its_name(path: Path) -> None:
    place = path.relative_to(TESTS)
    source = PACKAGE / place.parent / path.name.removeprefix("test_")

    assert source.is_file(), f"{module_id(path)} tests no {module_id(source)}"


@pytest.mark.parametrize("path", MODULES, ids=module_id)
def test_module_begins_with_a_docstring(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
