"""Which parameters of a model are trained: adapters, chosen parts, or all but some."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from torch import nn

from biomamba.model.adapter import load_adapter
from biomamba.model.lora import A_NAME, B_NAME, Lora
from biomamba.runtime.errors import ConfigError


@dataclass(frozen=True)
class Adaptation:
    """What is trained of a model; without settings all of it.

    With lora only the adapters are. train and freeze are patterns of parameter names, such as
    `*.norm.weight` or `backbone.layers.0.*`: with train only what matches one is trained (besides
    the adapters), and nothing that matches one of freeze. adapter is the model folder of an earlier
    run with the same adapters, which go on from there.
    """

    lora: Lora | None = None
    train: Sequence[str] = ()
    freeze: Sequence[str] = ()
    adapter: str | None = None

    def __post_init__(self) -> None:
        if self.adapter is not None and self.lora is None:
            raise ValueError(f"adapter={self.adapter} needs lora, which says where adapters are")

    def apply(self, model: nn.Module) -> None:
        """Add the adapters and let only what is to be trained have gradients.

        Raises:
            ConfigError: A target or a pattern matches nothing, or nothing is left to train.
            CheckpointError: The adapter cannot be read or is another one.
        """
        if self.lora is not None:
            self.lora.add_to(model)
        names = [name for name, _ in model.named_parameters()]
        adapters = {n for n in names if n.endswith((f".{A_NAME}", f".{B_NAME}"))}
        chosen = _matching(names, self.train, "train")
        trained = adapters | chosen if adapters or self.train else set(names)
        trained -= _matching(names, self.freeze, "freeze")
        if not trained:
            raise ConfigError(
                "model.adaptation leaves nothing to train: freeze fewer parameters, found freeze="
                f"{list(self.freeze)}"
            )
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trained)
        if self.adapter is not None:
            load_adapter(model, Path(self.adapter))


def _matching(names: Sequence[str], patterns: Sequence[str], key: str) -> set[str]:
    found = set()
    for pattern in patterns:
        matches = {name for name in names if fnmatchcase(name, pattern)}
        if not matches:
            ends = sorted({".".join(name.split(".")[-2:]) for name in names})
            raise ConfigError(
                f"the pattern {pattern!r} of model.adaptation.{key} matches no parameter; write "
                f"*. before the end of a name: {', '.join(ends)}"
            )
        found |= matches
    return found


@dataclass(frozen=True)
class ParameterCount:
    """Numbers that a model holds, and those of them that are trained."""

    total: int
    trained: int

    @classmethod
    def of(cls, model: nn.Module) -> "ParameterCount":
        """Count a model, sharded or not."""
        sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
        return cls(sum(n for n, _ in sizes), sum(n for n, is_trained in sizes if is_trained))
