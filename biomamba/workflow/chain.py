"""A chain of programs: its YAML file, its steps, required files, printed commands."""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from graphlib import CycleError, TopologicalSorter
from itertools import product
from pathlib import Path
from typing import Any

from biomamba.config.annotations import describe, fits, parameter_hints
from biomamba.config.messages import unknown_name
from biomamba.runtime.errors import ConfigError, DataError
from biomamba.runtime.numbers import check_number

# -------------------------------------------------------------------------------------------------
# One step of a chain: a program of this package, its overrides and the steps before it.
# -------------------------------------------------------------------------------------------------

# Where each program is told its folder.
OUTPUT_KEYS = {
    "prepare": "paths.run_dir",
    "verify": "paths.run_dir",
    "train": "paths.run_dir",
    "evaluate": "paths.run_dir",
    "audit": "paths.run_dir",
    "compare": "output",
    "export": "output",
    "report": "output",
}
# These take paths.data_dir and paths.raw_dir.
DATA_PROGRAMS = ("prepare", "verify", "train", "evaluate", "audit")


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step that can be run.

    Attributes:
        name: Its own name in the chain, also that of its log.
        template: The entry of the chain it was made of; several steps may be of one.
        program: `train` for `python -m biomamba.train`.
        overrides: What is behind the program, the folder of the step left out.
        after: Names of the steps that must be finished before.
        minutes: How long it is expected to take; None: not known.
        output: The folder it writes.
        sbatch: Options of sbatch, where it is printed for SLURM.
    """

    name: str
    template: str
    program: str
    overrides: tuple[str, ...]
    after: tuple[str, ...]
    minutes: float | None
    output: str
    sbatch: tuple[str, ...] = ()

    @property
    def arguments(self) -> tuple[str, ...]:
        """Return everything that is behind the program."""
        return (*self.overrides, f"{OUTPUT_KEYS[self.program]}={self.output}")

    @property
    def command(self) -> tuple[str, ...]:
        """Return program and arguments, as they are kept in the record of the step."""
        return (f"biomamba.{self.program}", *self.arguments)


@dataclass(frozen=True, kw_only=True)
class Template:
    """An entry of a chain as its YAML file has it; `{word}` stands for a value or a folder.

    Attributes:
        program: `train` for `python -m biomamba.train`.
        overrides: Of the program.
        more: Further overrides, for the command line.
        after: Entries that come before; None: the one above.
        each: Values for which a step is made each, as {seed: [1, 2, 3]}.
        minutes: How long one step is expected to take; None: not known.
        output: The folder of one step; None: one of its own in the folder of the chain.
        sbatch: Options of sbatch.
    """

    program: str
    overrides: list[str]
    minutes: float | None = None
    more: list[str] | None = None
    after: list[str] | None = None
    each: dict[str, list[str | int | float]] | None = None
    output: str | None = None
    sbatch: list[str] | None = None

    def __post_init__(self) -> None:
        if self.program not in OUTPUT_KEYS:
            raise ConfigError(unknown_name("program", self.program, OUTPUT_KEYS))
        check_number("minutes", self.minutes, above=0, optional=True)
        key = OUTPUT_KEYS[self.program]
        if any(text.lstrip("+").startswith(f"{key}=") for text in self.texts):
            raise ConfigError(f"overrides hold {key}=...; write it as output: <folder>")
        empty = sorted(name for name, values in (self.each or {}).items() if not values)
        if empty:
            raise ConfigError(f"each.{empty[0]} is empty; list its values, as [1, 2, 3]")

    @property
    def texts(self) -> list[str]:
        """Return all overrides."""
        return [*self.overrides, *(self.more or [])]

    @classmethod
    def parse(cls, content: Mapping[str, Any]) -> "Template":
        """Read an entry of a chain.

        Raises:
            ConfigError: A key is unknown or missing, or a value of a wrong type.
        """
        hints = parameter_hints(cls)
        names = [field.name for field in fields(cls)]
        for key, value in content.items():
            if key not in names:
                raise ConfigError(unknown_name("key", key, names))
            if not fits(value, hints[key]):
                raise ConfigError(f"{key} must be {describe(hints[key])}, found {value!r}")
        missing = [name for name in ("program", "overrides") if name not in content]
        if missing:
            raise ConfigError(f"{', '.join(missing)} must be given")
        return cls(**content)


# -------------------------------------------------------------------------------------------------
# A chain as its YAML file tells it, and the steps that it consists of.
#
# In overrides and outputs `{word}` stands for a value of `each` or of the chain, for the folder of
# the step itself (`{output}`), or for those of another entry (`{base}/model`), with a comma between
# several. An entry that is named so comes before. Of two entries with a value in common, as a seed,
# a step builds upon the step of the same value.
# -------------------------------------------------------------------------------------------------

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_PLACEHOLDER = re.compile(r"\{([a-z][a-z0-9_]*)\}")
_OUTPUT = "output"
Values = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Chain:
    """A chain of steps.

    Attributes:
        name: Of the chain; its folder is called so.
        title: What the chain is for, in a few words.
        steps: Entries by name, in the order in which they are run; see `Template`.
        raw_files: Files or patterns below the raw folder that must be there, and where to get them.
        values: What further `{word}` in the entries stand for.
    """

    name: str
    title: str
    steps: Mapping[str, Mapping[str, Any]]
    raw_files: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, str | int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.expand("runs")

    def expand(self, folder: str, shared: tuple[str, ...] = ()) -> tuple[Step, ...]:
        """Return the steps, each after those it builds upon; outputs are in `folder`.

        Args:
            folder: Of the chain.
            shared: Overrides of all programs that read data; those of a step count more.

        Raises:
            ConfigError: An entry is wrong, names something unknown or builds upon itself.
        """
        if not self.steps:
            raise ConfigError("the chain has no steps; give it one or more")
        templates = {name: _parsed(name, content) for name, content in self.steps.items()}
        before = {name: self._before(name, templates) for name in templates}
        made: dict[str, list[tuple[Values, Step]]] = {}
        for name in _ordered(before):
            found = self._made(name, templates[name], before[name], made, folder)
            made[name] = [(own, _with(step, shared)) for own, step in found]
        steps = tuple(step for found in made.values() for _, step in found)
        _check_outputs(steps)
        return steps

    def _before(self, name: str, templates: Mapping[str, Template]) -> tuple[str, ...]:
        """Return the entries that an entry comes behind."""
        own, names = templates[name], list(templates)
        given = own.after
        if given is None:
            given = names[max(0, names.index(name) - 1) : names.index(name)]
        for other in given:
            if other not in templates:
                raise ConfigError(f"steps.{name}.after: {unknown_name('step', other, templates)}")
        own_words = {_OUTPUT, *self.values, *(own.each or {})}
        words = _words([*own.texts, own.output or ""])
        for word in words:
            if word not in own_words and word not in templates:
                known = [*own_words, *templates]
                raise ConfigError(f"steps.{name}: {unknown_name('word', word, known)}")
        clashing = sorted(own_words & templates.keys())
        if clashing:
            raise ConfigError(f"steps.{name}: {clashing[0]} names both a value and a step")
        return tuple(dict.fromkeys([*given, *(word for word in words if word not in own_words)]))

    def _made(
        self,
        name: str,
        template: Template,
        before: tuple[str, ...],
        made: Mapping[str, list[tuple[Values, Step]]],
        folder: str,
    ) -> Iterable[tuple[Values, Step]]:
        """Yield a step for each combination of the values of an entry."""
        each = template.each or {}
        for combination in product(*each.values()):
            own = dict(zip(each, map(str, combination), strict=True))
            full_name = "-".join([name, *(re.sub(r"[^\w.]+", "_", text) for text in own.values())])
            needed = {other: _partners(name, own, other, made[other]) for other in before}
            words = {key: str(value) for key, value in self.values.items()} | own
            words |= {other: ",".join(s.output for s in found) for other, found in needed.items()}
            output = _filled(template.output or f"{folder}/{full_name}", words)
            words[_OUTPUT] = output
            yield (
                own,
                Step(
                    name=full_name,
                    template=name,
                    program=template.program,
                    overrides=tuple(_filled(text, words) for text in template.texts),
                    after=tuple(step.name for found in needed.values() for step in found),
                    minutes=template.minutes,
                    output=output,
                    sbatch=tuple(template.sbatch or ()),
                ),
            )


def _with(step: Step, shared: tuple[str, ...]) -> Step:
    is_reader = step.program in DATA_PROGRAMS
    return replace(step, overrides=(*shared, *step.overrides)) if is_reader else step


def _parsed(name: str, content: Mapping[str, Any]) -> Template:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"steps.{name}: a name has small letters, digits and _ only")
    try:
        return Template.parse(content)
    except ConfigError as error:
        raise ConfigError(f"steps.{name}: {error}") from error


def _words(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(word for text in texts for word in _PLACEHOLDER.findall(text)))


def _filled(text: str, words: Values) -> str:
    return _PLACEHOLDER.sub(lambda found: words[found[1]], text)


def _ordered(before: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Return the entries in an order in which each is behind what it builds upon."""
    sorter = TopologicalSorter(before)
    try:
        sorter.prepare()
    except CycleError as error:
        circle = " <- ".join(error.args[1])
        raise ConfigError(f"steps build upon each other in a circle: {circle}") from error
    places = {name: place for place, name in enumerate(before)}
    order: list[str] = []
    ready: set[str] = set(sorter.get_ready())
    while ready:
        name = min(ready, key=places.__getitem__)
        ready.remove(name)
        order.append(name)
        sorter.done(name)
        ready |= set(sorter.get_ready())
    return order


def _partners(
    name: str, own: Values, other: str, made: Iterable[tuple[Values, Step]]
) -> list[Step]:
    """Return the steps of another entry that agree in all values that both have."""
    found = [
        step
        for values, step in made
        if all(values[key] == own[key] for key in values.keys() & own.keys())
    ]
    if not found:
        told = ", ".join(f"{key}={value}" for key, value in own.items())
        raise ConfigError(f"steps.{name}: {other} has no step for {told}")
    return found


def _check_outputs(steps: Iterable[Step]) -> None:
    owners: dict[str, str] = {}
    for step in steps:
        earlier = owners.setdefault(step.output, step.name)
        if earlier != step.name:
            raise ConfigError(
                f"{earlier} and {step.name} both write {step.output}; give each a folder of its own"
            )


# -------------------------------------------------------------------------------------------------
# Whether the files that a chain starts from are there.
# -------------------------------------------------------------------------------------------------


def check_raw_files(files: Mapping[str, str], folder: str | None) -> None:
    """Look for all files of a chain.

    Args:
        files: Patterns below the folder, and where to get each.
        folder: The raw folder.

    Raises:
        DataError: Some are missing; all of them are named.
    """
    missing = [
        f"{pattern}: {source}"
        for pattern, source in files.items()
        if folder is None or not any(Path(folder).glob(pattern))
    ]
    if missing:
        where = folder or "a folder yet to be named"
        raise DataError(
            f"{len(missing)} raw files of {len(files)} are missing below {where}:\n  "
            + "\n  ".join(missing)
            + "\n"
            "Put them there, or set paths.raw_dir=<folder>; chain=embedded needs no files"
        )


# -------------------------------------------------------------------------------------------------
# The steps of a chain as commands to be typed: one by one, or for SLURM.
# -------------------------------------------------------------------------------------------------

_SCRIPTS = ("prepare", "train", "evaluate")
_CHECKPOINT = "checkpoint="


def shell_line(step: Step) -> str:
    """Return the command of a step."""
    return f"python -m {shlex.join(step.command)}"


def plain_script(steps: Sequence[Step]) -> str:
    """Return the commands in an order in which they can be typed."""
    return "\n".join(shell_line(step) for step in steps)


def slurm_script(steps: Sequence[Step]) -> str:
    """Return a shell script that submits one job per step, each after those it builds upon."""
    lines = [
        "#!/usr/bin/env bash",
        "# From the top of the checkout; docs/slurm.md.",
        "set -euo pipefail",
    ]
    for step in steps:
        lines.append(f"{_variable(step.name)}=$({_submission(step)})")
    told = " ".join(f"{step.name}=${_variable(step.name)}" for step in steps)
    return "\n".join([*lines, f'echo "{told}"'])


def _submission(step: Step) -> str:
    words = ["sbatch", "--parsable", f"--job-name=biomamba-{step.name}"]
    if step.after:
        jobs = ":".join(f"${_variable(name)}" for name in step.after)
        # shlex would quote the variables.
        words += ["--kill-on-invalid-dep=yes", f"--dependency=afterok:{jobs}"]
    return " ".join([*words, *map(shlex.quote, step.sbatch), _job(step)])


def _job(step: Step) -> str:
    """Return the script of a step and its arguments; what needs no GPU and no script is wrapped."""
    if step.program not in _SCRIPTS:
        line = f'"${{BIOMAMBA_PYTHON:-.venv/bin/python}}" -m {shlex.join(step.command)}'
        return f"--wrap={shlex.quote(line)}"
    arguments = list(step.arguments)
    if step.program == "evaluate":
        models = [text for text in arguments if text.startswith(_CHECKPOINT)]
        others = [text for text in arguments if text not in models]
        arguments = [*(text.removeprefix(_CHECKPOINT) for text in models), "--", *others]
    return f"slurm/{step.program}.sbatch {shlex.join(arguments)}"


def _variable(name: str) -> str:
    return "job_" + "".join(letter if letter.isalnum() else "_" for letter in name)
