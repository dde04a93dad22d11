"""The shape of the code: layers, cycles, banned imports and names, packages in the wheel."""

import ast
import tomllib
from pathlib import Path

from biomamba.__main__ import COMMANDS

CHECKOUT = Path(__file__).resolve().parents[1]
PACKAGE = CHECKOUT / "biomamba"
PROGRAMS = ("__main__", *COMMANDS)
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


def test_imports_point_to_lower_layers() -> None:
    upward = []
    for path in SOURCES:
        own = layer_of(path)
        names = (name for name in imported_names(path) if name.startswith("biomamba."))
        for name in sorted({name.split(".")[1] for name in names} & LEVEL.keys()):
            if name != own and LEVEL[name] >= LEVEL[own]:
                upward.append(f"{module_id(path)} (layer {own}) imports {name}")

    assert not upward


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


def test_module_names_say_what_they_hold() -> None:
    assert not [module_id(path) for path in MODULES if path.stem in BANNED_NAMES]


def test_kernels_are_imported_by_the_fused_backend_only() -> None:
    importers = {
        path
        for path in MODULES
        if {name.split(".")[0] for name in imported_names(path)} & KERNEL_PACKAGES
    }

    assert importers <= {PACKAGE / "model" / "backends" / "fused.py"}


def test_config_objects_stay_in_the_config_layer_and_the_programs() -> None:
    importers = {
        layer_of(path)
        for path in MODULES
        if {name.split(".")[0] for name in imported_names(path)} & {"omegaconf", "hydra"}
    }

    assert importers <= {"config", *PROGRAMS}


def test_modules_begin_with_a_docstring() -> None:
    bare = [p for p in MODULES if not ast.get_docstring(ast.parse(p.read_text(encoding="utf-8")))]

    assert not [module_id(path) for path in bare]
