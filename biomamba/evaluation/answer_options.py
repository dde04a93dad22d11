"""How models are asked for the answers of tasks."""

from dataclasses import dataclass

from biomamba.runtime.errors import ConfigError

LABEL_BY = ("likelihood", "generation")
DECISIONS = ("argmax", "thresholds")
SPLITS = ("test", "val")


@dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """How models are asked, and how a label follows from what they answer.

    Attributes:
        split: Items of the test split, or of val, to choose settings with.
        label_by: `likelihood` scores every label whole; `generation` lets the model write and reads
            a label strictly (biomamba/tasks/answer_parser.py).
        prior_correction: Divide the probability of an answer by the one it has behind the prompt
            with every part empty. Source: Zhao et al., arXiv 2102.09690; Holtzman et al.,
            arXiv 2104.08315.
        decision: `argmax`, or `thresholds`: an offset for every label but the first, fitted on the
            validation split.
        max_prompt_tokens: Ids of a prompt; longer ones lose what their template lets go. In
            fine-tuning a prompt has seq_len - max_target_tokens.
        max_label_tokens: Ids written for a label.
        batch_size: Items that are asked together; of consequence for speed and memory only.
        max_items: The first so many items by a hash of their id; None: all.
        num_random_draws: How often the random baseline answers all items.

    Raises:
        ConfigError: A value is not allowed, or one has no meaning beside another.
    """

    split: str = "test"
    label_by: str = "likelihood"
    prior_correction: bool = False
    decision: str = "argmax"
    max_prompt_tokens: int = 992
    max_label_tokens: int = 8
    batch_size: int = 8
    max_items: int | None = None
    num_random_draws: int = 200

    def __post_init__(self) -> None:
        allowed = {"split": SPLITS, "label_by": LABEL_BY, "decision": DECISIONS}
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}; allowed: {', '.join(values)}"
                )
        for name in ("max_prompt_tokens", "max_label_tokens", "batch_size", "num_random_draws"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.max_items is not None and self.max_items < 1:
            raise ConfigError(f"max_items must be at least 1 or null, got {self.max_items}")
        if self.label_by == "generation" and (self.prior_correction or self.fits_thresholds):
            raise ConfigError(
                "prior_correction and decision=thresholds work on likelihoods; set "
                "label_by=likelihood, or leave them off"
            )
        if self.fits_thresholds and self.split == "val":
            raise ConfigError(
                "decision=thresholds fits on the validation split, so figures of split=val would "
                "be those of the items it was fitted on; set split=test or decision=argmax"
            )

    @property
    def fits_thresholds(self) -> bool:
        """Whether the validation split is answered too."""
        return self.decision == "thresholds"
