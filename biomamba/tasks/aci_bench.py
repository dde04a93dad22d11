"""ACI-Bench: the note of a visit is written from the dialogue of doctor and patient.

Source: Yim et al., Scientific Data 10, 586 (2023); files of github.com/wyim/aci-bench.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from biomamba.data.document import Reject
from biomamba.tasks.dialogue_rows import DialogueTask
from biomamba.tasks.item import Item


@dataclass(frozen=True, kw_only=True)
class AciBench(DialogueTask):
    """Whole notes from whole dialogues, by the official files of the challenge.

    Parts: `dialogue`. Facts: `dataset` (how the dialogue was recorded) and `file`.
    """

    @property
    def columns(self) -> Sequence[str]:
        """Columns of the official files."""
        return ("dataset", "encounter_id", "dialogue", "note")

    def _item(self, row: Mapping[str, str]) -> Item | Reject:
        name = row["encounter_id"].strip()
        if not name:
            return Reject("no encounter_id", row["where"], is_damaged=True)
        dialogue, note = row["dialogue"].strip(), row["note"].strip()
        if not dialogue or not note:
            return Reject("empty dialogue" if not dialogue else "empty note", name)
        return Item(
            id=name,
            parts={"dialogue": dialogue},
            target=note,
            references=[[note]],
            facts={"dataset": row["dataset"], "file": row["where"].partition(" ")[0]},
        )
