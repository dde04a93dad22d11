"""What every mixer must do, whichever model it belongs to."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from biomamba.model.backends.chunked import ChunkedScan
from biomamba.model.config import Mamba1Config, Mamba2Config, MambaConfig
from biomamba.model.language_model import make_mixer
from biomamba.model.mamba2 import Mixer

LENGTH, WIDTH = 13, 16
SIZES: dict[str, Any] = {"d_model": WIDTH, "n_layer": 1, "vocab_size": 8, "d_state": 8}
STATIC = ((), ("dt",), ("B",), ("C",), ("B", "C"), ("dt", "B", "C"))
CONFIGS = {
    f"{name}{'-' * bool(static)}{''.join(static)}": kind(**SIZES, **sizes, static=static)
    for name, kind, sizes in (
        ("mamba1", Mamba1Config, {"dt_rank": 3}),
        ("mamba2", Mamba2Config, {"headdim": 8, "ngroups": 2}),
    )
    for static in STATIC
}


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS)
def config(request: pytest.FixtureRequest) -> MambaConfig:
    assert isinstance(request.param, MambaConfig)
    return request.param


class RecordingScan(ChunkedScan):
    """Remembers what the last scan was given and what it returned."""

    def scan(self, *tensors: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        return self._record(super().scan, tensors, options)

    def selective_scan(self, *tensors: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        return self._record(super().selective_scan, tensors, options)

    def _record(self, scan: Callable[..., Any], tensors: Any, options: Any) -> Any:
        self.rescan = scan
        self.given = dict(zip(("x", "dt", "A", "B", "C"), tensors, strict=True))
        self.y, final_state = scan(*tensors, **options)
        return self.y, final_state


def build(config: MambaConfig, backend: ChunkedScan) -> Mixer:
    """Return a float64 mixer whose every path matters to the output."""
    module = make_mixer(config, backend).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module


@pytest.fixture
def mixer(config: MambaConfig) -> Mixer:
    return build(config, ChunkedScan(chunk_size=4))


@pytest.fixture
def u() -> Tensor:
    return torch.randn(2, LENGTH, WIDTH, dtype=torch.float64)


def test_the_config_counts_the_parameters(config: MambaConfig) -> None:
    module = make_mixer(config, ChunkedScan())

    assert sum(p.numel() for p in module.parameters()) == config.mixer_parameters()


def test_the_empty_state_is_none(mixer: Mixer, u: Tensor) -> None:
    torch.testing.assert_close(mixer(u, None, mixer.initial_state(2)), mixer(u))


def test_the_states_are_those_of_the_initial_state(mixer: Mixer, u: Tensor) -> None:
    expected = [(part.shape, part.dtype) for part in mixer.initial_state(2)]
    _, after = mixer(u)
    _, next_one = mixer.step(u[:, 0], after)

    for state in (after, next_one):
        assert [(part.shape, part.dtype) for part in state] == expected


@pytest.mark.parametrize("cut", [1, 3, 4, 12])
def test_two_segments_with_the_state_equal_one(mixer: Mixer, u: Tensor, cut: int) -> None:
    whole, final = mixer(u)
    first, state = mixer(u[:, :cut])
    second, last = mixer(u[:, cut:], None, state)

    torch.testing.assert_close(torch.cat([first, second], dim=1), whole)
    torch.testing.assert_close(last, final)


def test_steps_equal_the_whole(mixer: Mixer, u: Tensor) -> None:
    whole, final = mixer(u)
    state = mixer.initial_state(2)
    for position in range(LENGTH):
        output, state = mixer.step(u[:, position], state)
        torch.testing.assert_close(output, whole[:, position])

    torch.testing.assert_close(state, final)


@pytest.mark.parametrize("cut", [1, 3, 4, 12])
def test_nothing_passes_where_the_document_changes(mixer: Mixer, u: Tensor, cut: int) -> None:
    documents = (torch.arange(LENGTH) >= cut).int().expand(2, LENGTH)
    together, final = mixer(u, documents)
    alone = [mixer(part) for part in (u[:, :cut], u[:, cut:])]

    torch.testing.assert_close(together, torch.cat([output for output, _ in alone], dim=1))
    torch.testing.assert_close(final, alone[1][1])


def test_no_output_depends_on_a_later_input(mixer: Mixer, u: Tensor) -> None:
    changed = u.clone()
    changed[:, 7:] += 1.0

    before, after = (mixer(inputs)[0] for inputs in (u, changed))
    torch.testing.assert_close(after[:, :7], before[:, :7], rtol=0, atol=1e-12)
    assert ((after[:, 7:] - before[:, 7:]).abs().amax(-1) > 1e-3).all()


def record(mixer: Mixer, backend: RecordingScan, u: Tensor) -> dict[str, Tensor]:
    mixer(u)
    return {**backend.given, "y": backend.y}


def test_what_is_static_does_not_depend_on_the_input(config: MambaConfig, u: Tensor) -> None:
    backend = RecordingScan(chunk_size=4)
    mixer = build(config, backend)
    first, second = (record(mixer, backend, inputs) for inputs in (u, torch.randn_like(u)))

    unchanged = {n for n in ("dt", "B", "C") if torch.equal(first[n], second[n])}
    assert unchanged == set(config.static)
    for name in config.static:  # the same at all positions, too
        of_positions = first[name] if first[name].dim() > 2 else first[name].expand(2, 13, -1, -1)
        assert (of_positions == of_positions[:1, :1]).all()


def test_the_scan_is_linear_and_time_invariant_if_all_is_static(
    config: MambaConfig, u: Tensor
) -> None:
    backend = RecordingScan(chunk_size=4)
    mixer = build(config, backend)
    first, second = (record(mixer, backend, inputs) for inputs in (u, torch.randn_like(u)))
    others = [first[name] for name in ("dt", "A", "B", "C")]
    together, _ = backend.rescan(first["x"] + 2.0 * second["x"], *others)
    shifted = torch.cat([torch.zeros_like(first["x"][:, :3]), first["x"][:, :-3]], dim=1)
    later, _ = backend.rescan(shifted, *others)

    is_static = len(config.static) == 3
    assert torch.allclose(together, first["y"] + 2.0 * second["y"]) == is_static
    assert torch.allclose(later[:, 3:], first["y"][:, :-3]) == is_static
