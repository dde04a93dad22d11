"""What a layout of checkpoints is, and how its table is applied to a config.json.

Each layout is a table in a module of its own; nothing here knows one of them. Keys of a config.json
are written as paths: `ssm_cfg.d_state` is `d_state` in the object `ssm_cfg`.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal

from biomamba.model.config import MambaConfig
from biomamba.runtime.errors import CheckpointError

# Objects in a config.json whose keys are looked at one by one; others are plain values.
_SHOWN = 10
_SECTIONS = ("ssm_cfg", "initializer_cfg", "biomamba")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The table of one layout for one kind of model.

    Attributes:
        name: Name of the layout.
        config_class: What its config.json is read into.
        fields: Key -> field of the config.
        required: Keys that must be there.
        optional: Keys that are left out where they have their default.
        defaults: Key -> what the publisher's library takes for a missing key; the default of the
            field where the table is silent.
        fallbacks: Key -> another key whose value stands in for it when it is missing.
        derived: Key -> property of the config; written, and checked when read.
        repeated: Key -> property of the config; checked when read.
        constants: Key -> what is always written there; any value is taken when read.
        fixed: Key -> the only value that is implemented.
        ignored: Keys that do not describe the model.
        tensors: Our name of a tensor -> its name in the files; {} is the number of a block.
        aliases: Other names in the files -> our name.
        static_tensors: Further ones of models with static dt, B or C, like `tensors`.
    """

    name: Literal["state_spaces", "transformers"]
    config_class: type[MambaConfig]
    fields: Mapping[str, str]
    required: tuple[str, ...]
    tensors: Mapping[str, str]
    optional: frozenset[str] = frozenset()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fallbacks: Mapping[str, str] = field(default_factory=dict)
    derived: Mapping[str, str] = field(default_factory=dict)
    repeated: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()
    aliases: Mapping[str, str] = field(default_factory=dict)
    static_tensors: Mapping[str, str] = field(default_factory=dict)

    def parse(self, raw: Mapping[str, Any], source: str) -> MambaConfig:
        """Turn the content of a config.json into a config; `source` names it in errors.

        Raises:
            CheckpointError: It lacks a key, has an unknown one, or describes a model that is not
                implemented or that no model can be.
        """
        flat = dict(_flatten(raw))
        problems = [f"{key} is missing" for key in self.required if key not in flat]
        problems += self._unknown(flat)
        _refuse(problems, source, f"not a {self.config_class.layer} model that can be built here")
        values = {name: self._value(key, flat) for key, name in self.fields.items()}
        problems = [
            f"{key} is {values[name]!r}, must be true or false"
            for key, name in self.fields.items()
            if isinstance(self._default(key), bool) and not isinstance(values[name], bool)
        ]
        _refuse(problems, source, "wrong type")
        try:
            config = self.config_class(**values)
        except (TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"{source}: {str(error)[:300]}") from error
        checked = {**self.derived, **self.repeated}
        problems = [
            f"{key} is {flat[key]!r}, but the other keys make it {getattr(config, name)!r}"
            for key, name in checked.items()
            if key in flat and flat[key] != getattr(config, name)
        ]
        _refuse(problems, source, "contradicts itself")
        return config

    def render(self, config: MambaConfig) -> dict[str, Any]:
        """Return the config.json of a config.

        Raises:
            CheckpointError: The layout has no key for what makes the model another one.
        """
        problems = [
            f"{found.name} is {getattr(config, found.name)!r}, for which there is no key"
            for found in fields(config)
            if found.name not in self.fields.values()
            and getattr(config, found.name) != found.default
        ]
        _refuse(problems, f"layout {self.name}", "cannot hold this model")
        flat = dict(self.constants)
        flat |= {key: getattr(config, name) for key, name in self.derived.items()}
        for key, name in self.fields.items():
            value = getattr(config, name)
            if key not in self.optional or value != self._default(key):
                flat[key] = list(value) if isinstance(value, tuple) else value
        raw: dict[str, Any] = {}
        for key, value in flat.items():
            section, _, name = key.rpartition(".")
            (raw.setdefault(section, {}) if section else raw)[name] = value
        return raw

    def stored_names(self, config: MambaConfig) -> dict[str, str]:
        """Return our name of every tensor, in the model's order -> its name in the files.

        With static dt, B or C there are names more than tensors.
        """
        static = self.static_tensors if config.static else {}
        return dict(_expanded({**self.tensors, **static}, config))

    def own_names(self, config: MambaConfig) -> dict[str, str]:
        """Return every name that a tensor may have in the files -> our name."""
        return {
            **{stored: own for own, stored in self.stored_names(config).items()},
            **dict(_expanded(self.aliases, config)),
        }

    def _value(self, key: str, flat: Mapping[str, Any]) -> Any:
        for name in (key, self.fallbacks.get(key, key)):
            if name in flat:
                return flat[name]
        return self._default(key)

    def _default(self, key: str) -> Any:
        """Return what a missing key means; None for one that has no meaning."""
        if key in self.defaults:
            return self.defaults[key]
        name = self.fields[key]
        default = next(found.default for found in fields(self.config_class) if found.name == name)
        return None if default is MISSING else default

    def _unknown(self, flat: Mapping[str, Any]) -> list[str]:
        """Describe keys that are unknown, and values that are not implemented."""
        known = {*self.fields, *self.derived, *self.repeated, *self.constants, *self.ignored}
        problems = []
        for key, value in flat.items():
            if key in self.fixed:
                if _plain(value) != _plain(self.fixed[key]):
                    problems.append(f"{key} is {value!r}, only {self.fixed[key]!r} is implemented")
            elif key not in known:
                problems.append(f"{key} is an unknown key")
        return problems


def _flatten(raw: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in raw.items():
        if key in _SECTIONS and isinstance(value, Mapping):
            yield from ((f"{key}.{name}", inner) for name, inner in value.items())
        elif key not in _SECTIONS or value is not None:
            yield key, value


def _plain(value: Any) -> Any:
    """Return a value as JSON has it; infinity is spelt in three ways in the wild."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value in ("Infinity", {"__float__": "Infinity"}):
        return math.inf
    return value


def _expanded(names: Mapping[str, str], config: MambaConfig) -> Iterator[tuple[str, str]]:
    """Repeat the names of a block for every block; names of a block stand together."""
    block = {key: value for key, value in names.items() if "{}" in key}
    is_done = False
    for key, value in names.items():
        if key not in block:
            if key != "lm_head.weight" or not config.tie_embeddings:
                yield key, value
        elif not is_done:
            is_done = True
            for number in range(config.n_layer):
                yield from ((k.format(number), v.format(number)) for k, v in block.items())


def _refuse(problems: list[str], source: str, what: str) -> None:
    if problems:
        shown = [problem if len(problem) < 200 else f"{problem[:200]}..." for problem in problems]
        more = f"; and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
        raise CheckpointError(f"{source}: {what}: {'; '.join(shown[:_SHOWN])}{more}")
