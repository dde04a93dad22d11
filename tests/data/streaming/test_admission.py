"""The split and the firewall of single documents."""

from pathlib import Path
from typing import Any

from biomamba.data.cleaning.firewall import Firewall
from biomamba.data.document import SPLITS, Document, SplitRule, document_key
from biomamba.data.streaming.admission import Admission

RULE = SplitRule(val_permille=300, test_permille=200)
ADMISSION = Admission(RULE, Firewall())


def test_a_document_is_of_one_split_that_of_its_key() -> None:
    for number in range(50):
        document = Document("text", str(number), "test")
        splits = [split for split in SPLITS if ADMISSION.is_of(split, document)]
        assert splits == [RULE.split_of(document_key(str(number)))]


def test_documents_of_a_group_share_a_split() -> None:
    documents = [Document("text", str(number), "test", "patient") for number in range(50)]
    expected = RULE.split_of(document_key("patient"))
    assert all(ADMISSION.is_of(expected, document) for document in documents)
