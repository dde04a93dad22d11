"""The Transformer as it is measured."""

import sys
from typing import Any

import pytest
import torch

from biomamba.runtime.errors import MissingDependencyError
from biomamba.timing.candidates import TransformerShape, TransformerSubject, import_transformers
from biomamba.timing.records import Point

SHAPE = TransformerShape(
    d_model=32, n_layer=2, n_head=2, d_ff=48, vocab_size=64, tie_embeddings=True
)
CPU = torch.device("cpu")


@pytest.fixture
def subject() -> TransformerSubject:
    found = TransformerSubject.build(SHAPE, 512, CPU, torch.float32)
    found.module.eval()
    return found


@torch.no_grad()
def test_what_it_writes_behind_its_cache_is_the_model(subject: TransformerSubject) -> None:
    prompts = [list(range(20)), list(range(20, 40))]
    for _ in range(2):
        texts = [list(prompt) for prompt in prompts]
        ids, rows = subject.begin(prompts, 3)
        for _ in range(3):
            whole = subject.module(torch.tensor(texts), use_cache=False).logits[:, -1]
            assert torch.equal(ids, whole.argmax(-1))
            texts = [[*text, int(new)] for text, new in zip(texts, ids, strict=True)]
            ids = rows.step(ids)
        # Back to the end of the prompts: the same ids once more.
        rows.reset()
        first = subject.first_ids(prompts, 3)
        again = rows.step(first).tolist()
        assert again == [text[21] for text in texts]


@torch.no_grad()
def test_a_prompt_needs_no_mask(
    subject: TransformerSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mask of length x length would keep SDPA from its fast kernels."""
    masks: list[object] = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def spy(*args: torch.Tensor, attn_mask: torch.Tensor | None, **how: object) -> torch.Tensor:
        masks.append(attn_mask)
        assert how["is_causal"]
        return attend(*args, attn_mask=attn_mask, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    subject.first_ids([[1] * 30], 4)
    subject.hidden(torch.ones(1, 30, dtype=torch.int64))

    assert masks == [None] * 4


@torch.no_grad()
def test_keys_and_values_grow_with_the_context(subject: TransformerSubject) -> None:
    kept = [subject.begin([[5] * length], 4)[1].held_bytes() for length in (16, 32, 48)]

    assert kept[1] - kept[0] == kept[2] - kept[1] == 2 * 2 * 32 * 4 * 16


def test_operations_by_hand(subject: TransformerSubject) -> None:
    """Position i sees i + 1 positions: 2 products of 2 x 32 operations each, in 2 layers."""
    table = 64 * 32
    blocks = SHAPE.num_parameters() - table
    seen = sum(range(1, 11))
    forward = 10 * 2 * blocks + 2 * 2 * 2 * 32 * seen

    assert subject.operations(Point("train", 3, 10), 5) == 3 * 3 * (forward + 10 * 2 * table)
    assert subject.operations(Point("prefill", 3, 10), 5) == 3 * forward + 3 * 2 * table
    seen = sum(range(11, 16))  # 5 new tokens after 10
    written = 5 * (2 * blocks + 2 * table) + 2 * 2 * 2 * 32 * seen
    assert subject.operations(Point("decode", 3, 10), 5) == 3 * written


@torch.no_grad()
def test_products_are_counted_as_they_are_executed(
    subject: TransformerSubject, operations: Any
) -> None:
    """2 operations per number of a matrix and token; biases and norms are counted as if so."""
    names = dict(subject.module.gpt_neox.layers.named_parameters())
    matrices = sum(p.numel() for p in names.values() if p.ndim == 2)
    with operations() as noted:
        subject.hidden(torch.ones(1, 30, dtype=torch.int64))
    shapes = [shapes[-2:] for name, shapes in noted.found if name.startswith("aten.addmm")]
    products = sum(2 * a[0] * a[1] * b[1] for a, b in shapes)

    assert products == 30 * 2 * matrices
    rest = subject.operations(Point("prefill", 1, 30), 1) - products
    assert 0 < rest < products


def test_it_says_what_it_is(subject: TransformerSubject) -> None:
    assert (subject.name, subject.shape["layer"]) == ("transformer", "GPTNeoX")
    assert subject.num_parameters == SHAPE.num_parameters()


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependencyError, match=r"transformer=true.*biomamba\[baselines\]"):
        import_transformers()
