"""Fast decoding: one position at a time, with states that are updated in place."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from biomamba.model.language_model import MambaBlock, MambaLM
from biomamba.model.mamba2 import LayerState, Mamba2Mixer
from biomamba.model.ssd import state_dtype
from biomamba.runtime.errors import ConfigError

# -------------------------------------------------------------------------------------------------
# Products of a few rows with a large matrix, as generation needs them for every token.
#
# Such a product reads each weight once, so the speed of memory decides. On a CPU the BLAS library
# runs it on one core, and from a matrix laid out (outputs, inputs) at half that core's speed. Here
# the inputs are cut into one part per thread, whose products run side by side and are then added.
# Half precision has a library that does so by itself.
# -------------------------------------------------------------------------------------------------


class ThinProduct:
    """`F.linear(x, weight)` for x (rows, inputs) with few rows and a weight that stays.

    Args:
        weight: (outputs, inputs); read at every call, never written.
        shares_memory: On a CPU, lay the weight out again (inputs first) and make `weight` a view of
            it, so that the numbers are held once. Otherwise they are held a second time.
        dtype: Of the product and of a copy of the weight; None for that of the weight, no copy.
    """

    def __init__(
        self, weight: Tensor, *, shares_memory: bool, dtype: torch.dtype | None = None
    ) -> None:
        self._weight = weight.detach().to(dtype)
        self._parts: Tensor | None = None
        is_wide = self._weight.dtype in (torch.float32, torch.float64)
        if weight.device.type != "cpu" or not is_wide:
            return
        transposed = self._weight.t().contiguous()
        if shares_memory:
            weight.data = transposed.t()
            self._weight = weight.detach()
        count = _num_parts(weight.shape[1])
        self._parts = transposed.view(count, -1, weight.shape[0])

    def __call__(self, x: Tensor) -> Tensor:
        """Return (rows, outputs)."""
        if self._parts is None:
            return F.linear(x.to(self._weight.dtype), self._weight)
        if len(self._parts) == 1:
            return x @ self._parts[0]
        return torch.bmm(x.view(len(x), len(self._parts), -1).transpose(0, 1), self._parts).sum(0)


def _num_parts(inputs: int) -> int:
    """Return the largest number of equal parts up to the number of threads."""
    return next(n for n in range(torch.get_num_threads(), 0, -1) if inputs % n == 0)


# -------------------------------------------------------------------------------------------------
# A Mamba2 block that takes one position at a time, for generation.
#
# The same numbers as `MambaBlock.step` up to the order of sums, in fewer and cheaper operations:
# states are updated where they are, the convolution writes into a ring instead of shifting, and the
# state is kept with the channels last, so that its products read memory in order. Letters and
# shapes: see `biomamba.model.ssd`.
# -------------------------------------------------------------------------------------------------

# States of one tile on a CPU: they are still in the cache when they are read again.
_TILE_BYTES = 2**22
_PARAMETERS = {
    *("in_proj.weight", "conv1d.weight", "conv1d.bias", "dt_bias", "A_log", "D"),
    *("norm.weight", "out_proj.weight"),
}


class Mamba2Step:
    """One block with the states of its rows; `load` comes before the first call.

    The projections run in `product_dtype` (None: that of their weights), all else as ever.
    """

    def __init__(self, block: MambaBlock, product_dtype: torch.dtype | None = None) -> None:
        mixer = block.mixer
        assert isinstance(mixer, Mamba2Mixer)
        self.config = mixer.config
        self._block, self._mixer = block, mixer
        self._in_product, self._out_product = (
            ThinProduct(projection.weight, shares_memory=True, dtype=product_dtype)
            for projection in (mixer.in_proj, mixer.out_proj)
        )
        self._dtype = mixer.in_proj.weight.dtype
        wide = self._wide = state_dtype(mixer.in_proj.weight)
        self._norm, self._gated_norm = block.norm.weight.to(wide), mixer.norm.weight.to(wide)
        self._A, self._dt_bias = -torch.exp(mixer.A_log.to(wide)), mixer.dt_bias.to(wide)
        self._D = mixer.D.to(wide).unsqueeze(-1)
        self._taps = _ring_taps(mixer.conv1d.weight.to(wide), mixer.conv1d.bias.to(wide))
        self._ring, self._ssm = torch.empty(0), torch.empty(0)
        self._position = 0

    @staticmethod
    def serves(block: MambaBlock) -> bool:
        """Say whether the block holds the parameters that this class knows, and no others."""
        mixer = block.mixer
        if not isinstance(mixer, Mamba2Mixer):
            return False
        config = mixer.config
        projected = config.d_inner + config.conv_channels + config.nheads
        names = {name for name, _ in mixer.named_parameters()}
        return names == _PARAMETERS and len(mixer.in_proj.weight) == projected

    def load(self, state: LayerState) -> None:
        """Take over a copy of the state of every row."""
        config, batch = self.config, len(state.conv)
        ones = state.conv.new_ones(1, batch, config.conv_channels)
        self._ring = torch.cat([state.conv.permute(2, 0, 1), ones]).to(self._wide)
        grouped = state.ssm.reshape(batch * config.ngroups, -1, config.d_state)
        self._ssm = grouped.mT.clone(memory_format=torch.contiguous_format)
        self._position = 0

    def state(self) -> LayerState:
        """Return a copy of the state of every row."""
        config = self.config
        shape = (-1, config.nheads, config.headdim, config.d_state)
        return LayerState(
            self._oldest_first().permute(1, 2, 0).contiguous().to(self._dtype),
            self._ssm.mT.reshape(shape).contiguous(),
        )

    def _oldest_first(self) -> Tensor:
        return self._ring[:-1].roll(-self._position, 0)

    def keep(self, rows: Tensor) -> None:
        """Continue with these rows only."""
        groups = self.config.ngroups
        self._ring = self._ring[:, rows]
        self._ssm = torch.unflatten(self._ssm, 0, (-1, groups))[rows].flatten(0, 1)

    def __call__(self, residual: Tensor) -> Tensor:
        """Add the output of the block to the residual stream (batch, d_model)."""
        config = self.config
        u = F.rms_norm(residual.to(self._wide), (config.d_model,), self._norm, config.norm_eps)
        output = self._out_product(self._mix(self._in_product(u.to(self._dtype))))
        if self._block.residual_in_fp32:
            residual = residual.to(self._wide)
        return residual + output

    def _mix(self, projected: Tensor) -> Tensor:
        config = self.config
        sizes = [config.d_inner, config.conv_channels, config.nheads]
        z, xBC, dt = torch.split(projected.to(self._wide), sizes, dim=-1)
        y = self._scan(self._convolve(xBC), F.softplus(dt + self._dt_bias))
        gated = y.mul_(F.silu(z)).view(len(y), config.ngroups, -1)
        normed = F.rms_norm(gated, (gated.shape[-1],), None, config.norm_eps).view_as(y)
        return (normed * self._gated_norm).to(self._dtype)

    def _convolve(self, xBC: Tensor) -> Tensor:
        self._ring[self._position] = xBC
        self._position = (self._position + 1) % self.config.d_conv
        return F.silu((self._ring * self._taps[self._position]).sum(0))

    def _scan(self, xBC: Tensor, dt: Tensor) -> Tensor:
        """Update the states and return y with the skip, (batch, d_inner)."""
        config, batch = self.config, len(xBC)
        maps, groups = config.ngroups * config.d_state, batch * config.ngroups
        x, B, C = torch.split(xBC, [config.d_inner, maps, maps], dim=-1)
        x = x.view(batch, config.nheads, config.headdim)
        y = torch.empty_like(x)
        decay = torch.exp(dt * self._A).unsqueeze(-1).expand_as(x)
        tensors = (
            self._ssm,
            decay.reshape(groups, 1, -1),
            B.reshape(groups, -1, 1),
            (x * dt.unsqueeze(-1)).view(groups, 1, -1),
            C.reshape(groups, 1, -1),
            y.view(groups, 1, -1),
        )
        tiles = (torch.split(each, self._tile_groups()) for each in tensors)
        for state, decay_here, B_here, x_here, C_here, y_here in zip(*tiles, strict=True):
            state.mul_(decay_here).addcmul_(B_here, x_here)
            torch.bmm(C_here, state, out=y_here)
        return y.addcmul_(x, self._D).view(batch, -1)

    def _tile_groups(self) -> int:
        """Return the number of groups whose states are worked on at once."""
        if self._ssm.device.type != "cpu":
            return len(self._ssm)
        return max(1, _TILE_BYTES * len(self._ssm) // self._ssm.nbytes)


def _ring_taps(weight: Tensor, bias: Tensor) -> Tensor:
    """Return the factors of a ring of inputs and a row of ones, for each position of the oldest.

    `weight` (channels, 1, d_conv), oldest input first; the result is (d_conv, d_conv + 1, 1,
    channels), where entry p is for the ring whose oldest input is at p.
    """
    taps = weight.squeeze(1).t()
    rings = [torch.cat([taps.roll(p, 0), bias.unsqueeze(0)]) for p in range(len(taps))]
    return torch.stack(rings).unsqueeze(2)


# -------------------------------------------------------------------------------------------------
# The model one position at a time, with states that it owns and updates in place.
# -------------------------------------------------------------------------------------------------


class BlockStep(Protocol):
    """One block with the states of its rows."""

    def load(self, state: LayerState) -> None:
        """Take over a copy of the state of every row."""
        ...

    def state(self) -> LayerState:
        """Return a copy of the state of every row."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Continue with these rows only."""
        ...

    def __call__(self, residual: Tensor) -> Tensor:
        """Add the output of the block to the residual stream (batch, d_model)."""
        ...


class PlainStep:
    """A block of any kind, through its own `step`."""

    def __init__(self, block: MambaBlock) -> None:
        self.block = block
        self._state = block.mixer.initial_state(0)

    def load(self, state: LayerState) -> None:
        """Take over a copy of the state of every row."""
        self._state = LayerState(*(part.clone() for part in state))

    def state(self) -> LayerState:
        """Return a copy of the state of every row."""
        return LayerState(*(part.clone() for part in self._state))

    def keep(self, rows: Tensor) -> None:
        """Continue with these rows only."""
        self._state = LayerState(*(part[rows] for part in self._state))

    def __call__(self, residual: Tensor) -> Tensor:
        """Add the output of the block to the residual stream (batch, d_model)."""
        residual, self._state = self.block.step(residual, self._state)
        return residual


class Decoder:
    """Computes the logits of one further id per row, like `MambaLM.step`, but faster.

    On a CPU it changes the memory layout of the projections (same numbers, same parameters) and
    holds the matrix of the head a second time. The weights must not change while it is in use.

    Attributes:
        product_dtype: Of projections and head, as under autocast: copies of their matrices are read
            at every step, states and decays stay wide. None: the weights themselves are read.

    Raises:
        ConfigError: The model has blocks that cannot do that.
    """

    @torch.no_grad()
    def __init__(self, model: MambaLM, product_dtype: torch.dtype | None = None) -> None:
        self.model = model
        self.product_dtype = None if product_dtype == model.head_weight.dtype else product_dtype
        self._head = ThinProduct(
            model.head_weight, shares_memory=model.lm_head is not None, dtype=self.product_dtype
        )
        self.blocks = [self._step_of(block) for block in model.backbone.blocks()]

    def _step_of(self, block: MambaBlock) -> BlockStep:
        if Mamba2Step.serves(block):
            return Mamba2Step(block, self.product_dtype)
        if self.product_dtype is not None:
            raise ConfigError(
                f"generation.precision={str(self.product_dtype).removeprefix('torch.')}: only for "
                "Mamba2 without adapters and without static parameters; take float32 for this model"
            )
        return PlainStep(block)

    @torch.no_grad()
    def load(self, states: Sequence[LayerState]) -> None:
        """Start with a copy of these states."""
        for block, state in zip(self.blocks, states, strict=True):
            block.load(state)

    @torch.no_grad()
    def states(self) -> list[LayerState]:
        """Return a copy of the states."""
        return [block.state() for block in self.blocks]

    @torch.no_grad()
    def keep(self, rows: Sequence[int]) -> None:
        """Continue with these rows only, in this order."""
        index = torch.tensor(rows, device=self.model.head_weight.device)
        for block in self.blocks:
            block.keep(index)

    @torch.no_grad()
    def step(self, input_ids: Tensor) -> Tensor:
        """Return the logits (batch, padded_vocab) after one further id per row (batch,)."""
        return self.through(self.blocks, input_ids)

    def through(self, blocks: Sequence[Callable[[Tensor], Tensor]], input_ids: Tensor) -> Tensor:
        """Return the logits by other steps of the same blocks."""
        backbone = self.model.backbone
        residual = F.embedding(input_ids, backbone.embedding.weight)
        for block in blocks:
            residual = block(residual)
        return self._head(backbone.norm_f(residual))
