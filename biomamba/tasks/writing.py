"""Tasks whose answer is a clinical text, and the figures that all of them have."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from biomamba.metrics import clinical_text, overlap
from biomamba.metrics.measure import Measure
from biomamba.runtime.numbers import check_whole
from biomamba.tasks.clinical_sections import headings_of
from biomamba.tasks.item import Item
from biomamba.tasks.prediction import EMPTY, Prediction
from biomamba.tasks.prompt import Prompt
from biomamba.tasks.task import Task, WriteText, check_access
from biomamba.tasks.task_rows import MAX_BAD_FRACTION, check_bad_fraction


@dataclass(frozen=True)
class AuditedItem:
    """An item, and the texts of its note that its prompt must not hold, by name."""

    item: Item
    withheld: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class WritingTask(Task):
    """A text is written from the parts of the prompt and compared with references.

    Attributes:
        name: Name of the task in tables and files.
        protocol: Which published protocol the figures follow.
        prompt: How an item is put to a model.
        access: `open` or `restricted`.
        max_new_tokens: Longest answer.
        stop: Texts that end an answer.
        max_bad_fraction: A split with more damaged rows than this is refused.
    """

    name: str
    protocol: str
    prompt: Prompt
    access: str
    max_new_tokens: int
    stop: Sequence[str] = field(default=())
    max_bad_fraction: float = MAX_BAD_FRACTION

    def __post_init__(self) -> None:
        check_access(self.access)
        check_whole(f"max_new_tokens of {self.name}", self.max_new_tokens)
        check_bad_fraction(self.max_bad_fraction, self.name)

    @property
    def has_headings(self) -> bool:
        """Whether targets are notes with headings rather than single sections."""
        return True

    @property
    def withheld_headings(self) -> Sequence[str]:
        """Headings whose sections a prompt must not hold; empty if the task knows none."""
        return ()

    @property
    def answer(self) -> WriteText:
        """A text of so many tokens."""
        return WriteText(self.max_new_tokens, tuple(self.stop))

    def measures(
        self, items: Sequence[Item], predictions: Sequence[Prediction]
    ) -> Sequence[Measure]:
        """Return overlap with the references and what is wrong beside the source; ROUGE-1 first."""
        outputs = [_output(item, given) for item, given in zip(items, predictions, strict=True)]
        references = [references_of(item) for item in items]
        sources = [self.source(item) for item in items]
        figures = writing_measures(outputs, references, sources)
        return [*figures, *([section_figure(outputs, references)] if self.has_headings else [])]

    def signatures(self, items: Sequence[Item]) -> Mapping[str, str]:
        """Return by measure what identifies its computation, as sacrebleu's signature."""
        return overlap.signatures([references_of(item) for item in items])

    def source(self, item: Item) -> str:
        """Return what an answer may draw upon: the parts of the prompt, whole."""
        return "\n".join(item.parts[name] for name in self.prompt.parts)

    def audited(self, items: Sequence[Item]) -> Iterator[AuditedItem]:
        """Iterate over items of this task with what their prompts must not hold."""
        for item in items:
            yield AuditedItem(item, {"reference": "\n".join(references_of(item))})


def references_of(item: Item) -> list[str]:
    """Return the texts that an answer is compared with; the target where none are named."""
    return [text for group in item.references for text in group] or [item.target]


def writing_measures(
    outputs: Sequence[str], references: Sequence[Sequence[str]], sources: Sequence[str]
) -> list[Measure]:
    """Return the figures of any written text.

    What the sources do not support is told of the first references too: nobody can be expected to
    do better than they do.
    """
    support = _support_measures([texts[0] for texts in references], sources)
    return [
        *overlap.rouge(outputs, references),
        overlap.bleu(outputs, references),
        *_support_measures(outputs, sources),
        *clinical_text.copying(outputs, sources),
        *clinical_text.lengths(outputs, references),
        *(replace(m, name=f"reference_{m.name}", higher_is_better=None) for m in support),
    ]


def _support_measures(outputs: Sequence[str], sources: Sequence[str]) -> list[Measure]:
    return [
        clinical_text.unsupported_numbers(outputs, sources),
        clinical_text.unsupported_doses(outputs, sources),
        clinical_text.negation_flips(outputs, sources),
    ]


def section_figure(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> Measure:
    """Return the share of the headings of the first references that the outputs have."""
    wanted = [headings_of(texts[0]) for texts in references]
    return clinical_text.section_coverage([headings_of(output) for output in outputs], wanted)


def _output(item: Item, prediction: Prediction) -> str:
    if prediction.id != item.id:
        raise ValueError(f"prediction {prediction.id} stands where item {item.id} is measured")
    return "" if prediction.status == EMPTY else prediction.text
