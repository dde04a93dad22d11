"""Both models offer what is measured, and count alike."""

import torch

from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.config import Mamba2Config
from biomamba.model.language_model import MambaLM
from biomamba.timing.candidates import MambaSubject, Subject, TransformerSubject, equal_shape
from biomamba.timing.records import PHASES, Point


def test_the_models_do_the_same_and_have_the_same_size(tiny: Mamba2Config) -> None:
    ours = MambaSubject(MambaLM(tiny, ChunkedScan()), torch.float32, 16, ChunkedScan())
    theirs = TransformerSubject.build(equal_shape(tiny), 64, torch.device("cpu"), torch.float32)
    subjects: list[Subject] = [ours, theirs]
    prompts = [[1, 2, 3], [4, 5, 6]]

    assert abs(theirs.num_parameters / ours.num_parameters - 1) <= 0.02
    for subject in subjects:
        assert subject.hidden(torch.tensor(prompts)).shape == (2, 3, 32)
        assert subject.head_weight.shape == (tiny.padded_vocab_size, 32)
        with torch.no_grad():
            ids, rows = subject.begin(prompts, 2)
            assert ids.shape == rows.step(ids).shape == (2,)
        assert rows.held_bytes() >= 4 * subject.num_parameters
        for phase in PHASES:
            assert subject.operations(Point(phase, 1, 8), 2) > 0
