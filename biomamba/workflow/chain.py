"""A chain as its YAML file tells it, and the steps that it consists of.

In overrides and outputs `{word}` stands for a value of `each` or of the chain, for the folder of
the step itself (`{output}`), or for those of another entry (`{base}/model`), with a comma between
several. An entry that is named so comes before. Of two entries with a value in common, as a seed,
a step builds upon the step of the same value.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from itertools import product
from typing import Any

from biomamba.config.wording import unknown_name
from biomamba.runtime.errors import ConfigError
from biomamba.workflow.step import DATA_PROGRAMS, Step, Template

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
        """Return the steps, each behind those it builds upon; outputs lie in `folder`.

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
    """Return the entries in an order in which each stands behind what it builds upon."""
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
