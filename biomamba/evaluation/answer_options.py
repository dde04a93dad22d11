"""How models are asked for the answers of tasks."""

from dataclasses import dataclass

from biomamba.evaluation.label_head import HeadOptions
from biomamba.runtime.errors import ConfigError
from biomamba.runtime.numbers import check_whole

LABEL_BY = ("likelihood", "generation", "head")
DECISIONS = ("argmax", "thresholds")
SPLITS = ("test", "val")


@dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """How models are asked, and how a label follows from what they answer.

    Attributes:
        split: Items of the test split, or of val, to choose settings with.
        label_by: `likelihood` scores every label whole; `generation` lets the model write and reads
            a label strictly (biomamba/tasks/answer_parser.py); `head` asks a linear head that was
            fitted on training and validation items (biomamba/evaluation/label_head.py).
        head: How the head is fitted; None with the other ways.
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
    head: HeadOptions | None = None
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
            check_whole(name, getattr(self, name))
        check_whole("max_items", self.max_items, optional=True)
        self._check_head()
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

    def _check_head(self) -> None:
        if (self.label_by == "head") != (self.head is not None):
            raise ConfigError(
                f"label_by is {self.label_by!r} and head {self.head}; label_by=head needs the node "
                "head and the other ways have none: choose with answers=..."
            )
        if self.head is not None and self.prior_correction:
            raise ConfigError(
                "prior_correction works on likelihoods, and a head gives none; leave it off, or "
                "set answers=likelihood"
            )
        if self.head is not None and self.split == "val":
            raise ConfigError(
                "answers=head chooses its l2 on the validation split, so figures of split=val "
                "would be those of the items it was chosen on; set split=test, and compare the "
                "val_nll in the records to choose between heads"
            )

    @property
    def fits_thresholds(self) -> bool:
        """Whether the validation split is answered too."""
        return self.decision == "thresholds"
