from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.backends.reference import ReferenceScan
from biomamba.model.config import Mamba2Config
from biomamba.model.language_model import MambaLM, no_decay_parameter_names
from biomamba.runtime.errors import DataError

Draw = Callable[..., Tensor]


def gradients(model: MambaLM, loss: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


def documents(*lengths: int) -> Tensor:
    return torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)).unsqueeze(0)


def test_logits_have_the_padded_vocabulary(tiny_model: MambaLM, random_ids: Draw) -> None:
    assert tiny_model(random_ids(2, 5)).shape == (2, 5, 48)


@pytest.mark.parametrize("wrong", [48, -1])
def test_ids_outside_the_vocabulary_are_refused(
    tiny_model: MambaLM, random_ids: Draw, wrong: int
) -> None:
    ids = random_ids(2, 5)
    ids[1, 3] = wrong
    with pytest.raises(DataError, match=rf"input_ids\[1, 3\] is {wrong}, .* 0 to 47; 1 of 10"):
        tiny_model.hidden(ids)


@pytest.mark.parametrize("changed", [0, 7, 8, 19])
def test_later_tokens_do_not_change_earlier_logits(
    tiny_model: MambaLM, random_ids: Draw, changed: int
) -> None:
    ids = random_ids(1, 20)
    other = ids.clone()
    other[0, changed] = (ids[0, changed] + 1) % 37
    difference = (tiny_model(ids) - tiny_model(other)).abs().amax(-1)[0]

    assert (difference[:changed] == 0).all()
    assert (difference[changed:] > 1e-6).all()


@pytest.mark.parametrize("lengths", [(8, 8, 8), (1, 2, 3, 18), (13, 11)])
def test_packed_row_equals_documents_alone(
    tiny_model: MambaLM, random_ids: Draw, lengths: tuple[int, ...]
) -> None:
    ids = random_ids(1, sum(lengths))
    packed = tiny_model(ids, documents(*lengths))
    alone = torch.cat([tiny_model(part) for part in ids.split(list(lengths), dim=1)], dim=1)
    factor = torch.randn_like(packed)

    torch.testing.assert_close(packed, alone)
    torch.testing.assert_close(
        gradients(tiny_model, (packed * factor).sum()),
        gradients(tiny_model, (alone * factor).sum()),
    )


def test_boundary_matters(tiny_model: MambaLM, random_ids: Draw) -> None:
    ids = random_ids(1, 12)
    difference = (tiny_model(ids) - tiny_model(ids, documents(5, 7))).abs().amax(-1)[0]

    assert (difference[:5] == 0).all()
    assert (difference[5:] > 1e-6).all()


@pytest.mark.parametrize("cut", [1, 2, 8, 13])
def test_two_segments_with_state_equal_one_pass(
    tiny_model: MambaLM, random_ids: Draw, cut: int
) -> None:
    ids = random_ids(2, 20)
    whole, final = tiny_model.hidden(ids)
    first, states = tiny_model.hidden(ids[:, :cut])
    second, last = tiny_model.hidden(ids[:, cut:], states=states)

    torch.testing.assert_close(torch.cat([first, second], dim=1), whole)
    torch.testing.assert_close(last, final)


def test_final_states_are_those_of_the_last_document(tiny_model: MambaLM, random_ids: Draw) -> None:
    ids = random_ids(1, 12)
    _, packed = tiny_model.hidden(ids, documents(10, 2))
    _, alone = tiny_model.hidden(ids[:, 10:])

    torch.testing.assert_close(packed, alone)


def test_step_equals_forward(tiny_model: MambaLM, random_ids: Draw) -> None:
    ids = random_ids(2, 11)
    expected = tiny_model(ids)
    states = tiny_model.initial_states(2)
    for position in range(11):
        logits, states = tiny_model.step(ids[:, position], states)
        torch.testing.assert_close(logits, expected[:, position])

    torch.testing.assert_close(states, tiny_model.hidden(ids)[1])


def test_empty_states_equal_no_states(tiny_model: MambaLM, random_ids: Draw) -> None:
    ids = random_ids(2, 5)
    hidden, _ = tiny_model.hidden(ids, states=tiny_model.initial_states(2))

    torch.testing.assert_close(hidden, tiny_model.hidden(ids)[0])


def test_backends_give_the_same_model(tiny_model: MambaLM, random_ids: Draw) -> None:
    reference = MambaLM(tiny_model.config, ReferenceScan()).double()
    reference.load_state_dict(tiny_model.state_dict())
    ids, seq_idx = random_ids(1, 21), documents(8, 3, 10)

    torch.testing.assert_close(tiny_model(ids, seq_idx), reference(ids, seq_idx))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 5e-2), (torch.float16, 7e-3)])
def test_autocast_is_near_float32(
    tiny_model: MambaLM, random_ids: Draw, dtype: torch.dtype, tolerance: float
) -> None:
    """Tolerance: some ten roundings of 2^-9 or 2^-12 per layer, relative to the largest entry."""
    model, ids = tiny_model.float(), random_ids(2, 40)
    expected = model(ids)
    with torch.autocast("cpu", dtype):
        actual = model(ids)

    assert actual.dtype == dtype
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


def test_autocast_keeps_states_and_residual_wide(tiny_model: MambaLM, random_ids: Draw) -> None:
    model = tiny_model.float()
    with torch.autocast("cpu", torch.bfloat16):
        residual = model.backbone.embedding(random_ids(1, 3))
        residual, state = model.backbone.layers[0](residual)

    assert residual.dtype == torch.float32
    assert state.ssm.dtype == torch.float32


@pytest.mark.parametrize(("wide", "dtype"), [(True, torch.float32), (False, torch.bfloat16)])
def test_residual_in_fp32_governs_narrow_weights(
    tiny_config: Mamba2Config, random_ids: Draw, wide: bool, dtype: torch.dtype
) -> None:
    config = Mamba2Config(**{**vars(tiny_config), "residual_in_fp32": wide})
    model = MambaLM(config, ChunkedScan(8)).bfloat16()
    residual, _ = model.backbone.layers[0](model.backbone.embedding(random_ids(1, 3)))

    assert residual.dtype == dtype


def test_state_dict_has_the_state_spaces_names(tiny_config: Mamba2Config) -> None:
    mixer = ["in_proj.weight", "conv1d.weight", "conv1d.bias", "dt_bias", "A_log", "D"]
    mixer += ["norm.weight", "out_proj.weight"]
    layer = ["norm.weight", *(f"mixer.{name}" for name in mixer)]
    expected = {f"backbone.layers.{n}.{name}" for n in range(2) for name in layer}
    expected |= {"backbone.embedding.weight", "backbone.norm_f.weight"}
    tied = MambaLM(tiny_config, ChunkedScan())
    untied = MambaLM(Mamba2Config(**{**vars(tiny_config), "tie_embeddings": False}), ChunkedScan())

    assert set(tied.state_dict()) == expected
    assert set(untied.state_dict()) == expected | {"lm_head.weight"}
    assert untied.head_weight is untied.lm_head.weight


def test_no_decay_for_everything_but_matrices(tiny_model: MambaLM) -> None:
    names = set(dict(tiny_model.named_parameters()))
    matrices = ("in_proj.weight", "conv1d.weight", "out_proj.weight", "embedding.weight")

    assert no_decay_parameter_names(tiny_model) == {n for n in names if not n.endswith(matrices)}


def test_logits_loss_and_gradients_equal_transformers(
    tiny_model: MambaLM, random_ids: Draw, transformers_twin: Callable[[MambaLM], Any]
) -> None:
    model, ids = tiny_model.float(), random_ids(2, 21)
    twin = transformers_twin(model)
    expected = twin(ids, labels=ids)
    logits = model(ids)
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())

    # Float32 rounding: transformers computes in float32 whatever the dtype of the weights.
    torch.testing.assert_close(logits, expected.logits, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(loss, expected.loss, rtol=1e-5, atol=0)
    expected.loss.backward()
    theirs = dict(twin.named_parameters())
    for name, grad in gradients(model, loss).items():
        other = theirs[name.replace("backbone.embedding.", "backbone.embeddings.")].grad
        torch.testing.assert_close(grad, other, rtol=1e-3, atol=1e-5, msg=name)


class CountingScan(ChunkedScan):
    scans = 0

    def scan(self, *tensors: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        self.scans += 1
        return super().scan(*tensors, **options)


@pytest.mark.parametrize("is_autocast", [False, True])
def test_checkpointed_activations_give_the_same_gradients_bit_for_bit(
    tiny_config: Mamba2Config, random_ids: Draw, is_autocast: bool
) -> None:
    backend = CountingScan(chunk_size=4)
    model = MambaLM(tiny_config, backend)
    ids, seq_idx = random_ids(1, 24), documents(13, 11)
    found = []
    for is_forgetful in (False, True):
        if is_forgetful:
            model.checkpoint_activations()
        backend.scans = 0
        with torch.autocast("cpu", torch.bfloat16, enabled=is_autocast, cache_enabled=False):
            loss = model(ids, seq_idx).float().logsumexp(-1).sum()
        found.append(gradients(model, loss))
        # Computed again in the backward pass, block by block.
        assert backend.scans == tiny_config.n_layer * (2 if is_forgetful else 1)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_a_checkpointed_block_keeps_its_input_only(
    tiny_config: Mamba2Config, random_ids: Draw
) -> None:
    model = MambaLM(tiny_config, ChunkedScan(chunk_size=4))
    names = list(model.state_dict())
    model.checkpoint_activations()
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point() and tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.hidden(random_ids(2, 64))
    # The inputs of the blocks and of the last norm.
    residual = 2 * 64 * tiny_config.d_model * 4
    sizes = sorted(tensor.untyped_storage().nbytes() for tensor in kept.values())
    assert sizes == [residual] * (tiny_config.n_layer + 1)
    assert list(model.state_dict()) == names


def test_without_gradients_nothing_is_computed_again(
    tiny_config: Mamba2Config, random_ids: Draw
) -> None:
    backend = CountingScan(chunk_size=4)
    model = MambaLM(tiny_config, backend)
    model.checkpoint_activations()
    with torch.no_grad():
        model(random_ids(1, 8))
    assert backend.scans == tiny_config.n_layer


def test_ids_without_positions_are_refused(tiny_model: MambaLM) -> None:
    with pytest.raises(ValueError, match=r"input_ids \(2, 0\): must hold at least one position"):
        tiny_model.hidden(torch.empty(2, 0, dtype=torch.long))


@pytest.mark.parametrize("shape", [(1, 8), (2, 7), (2, 9), (8,)])
def test_boundaries_of_other_rows_or_positions_are_refused(
    tiny_model: MambaLM, shape: tuple[int, ...]
) -> None:
    ids = torch.zeros(2, 8, dtype=torch.long)
    with pytest.raises(ValueError, match=r"seq_idx .* must be of the shape of input_ids, \(2, 8\)"):
        tiny_model.hidden(ids, torch.zeros(shape, dtype=torch.int32))


@pytest.mark.parametrize("length", [1, 7, 8, 9, 17])
def test_a_row_of_padding_changes_nothing(tiny_model: MambaLM, length: int) -> None:
    ids = torch.randint(37, (2, length))
    ids[1] = 0  # padding
    seq_idx = torch.zeros_like(ids)
    alone = tiny_model(ids[:1], seq_idx[:1])
    together = tiny_model(ids, seq_idx)

    torch.testing.assert_close(together[:1], alone)
    assert torch.isfinite(together).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dt_bias", [-1e5, 20.0, 1e3, 1e6])
def test_extreme_steps_and_decays_stay_finite_under_autocast(
    tiny_config: Mamba2Config, dtype: torch.dtype, dt_bias: float
) -> None:
    model = MambaLM(tiny_config, ChunkedScan(chunk_size=8))
    with torch.no_grad():
        for block in model.backbone.blocks():
            block.mixer.dt_bias[0] = dt_bias
            block.mixer.A_log[1] = 12.0  # A = -162,755, beyond fp16
    with torch.autocast("cpu", dtype):
        logits = model(torch.randint(37, (2, 21)))
    assert torch.isfinite(logits).all()
    for grad in gradients(model, logits.float().logsumexp(-1).mean()).values():
        assert torch.isfinite(grad).all()
