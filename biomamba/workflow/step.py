"""One step of a chain: a program of this package, its overrides and the steps before it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from biomamba.config.annotations import describe, fits, parameter_hints
from biomamba.config.wording import unknown_name
from biomamba.runtime.errors import ConfigError
from biomamba.runtime.numbers import check_number

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
        overrides: What stands behind the program, the folder of the step left out.
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
        """Return everything that stands behind the program."""
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
