"""The interfaces of a pattern. Read this first.

`AttentionPattern` is what a model calls. `BlockSparsePattern` is a pattern whose output is a
softmax over chosen blocks: it says *which* blocks (`plan`), and `attend` is written here, once.
`StaticPattern` chooses by position alone: it gives a token order and a keep matrix. A class is
either one of these or final; patterns are frozen, hashable dataclasses, and whatever changes
between steps is a value that `init` makes and `attend` returns.
"""

import abc
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels import BlockMask
from pallas_kernels._checks import check_dtype
from pallas_kernels._pytree import pytree, static
from sparsevdit_jax.grid import VideoGrid
from sparsevdit_jax.launch import attend_blocks, attend_dense
from sparsevdit_jax.schedule import Phase, StepContext
from sparsevdit_jax.token_order import TokenOrder
from sparsevdit_jax.token_permutation import TokenPermutation


@pytree
class AttentionPlan:
    """What one launch computes.

    Attributes:
      mask: the block pairs to compute, in the order of `order`. None: all of them or none, see
        `full`.
      order: block order of the mask, one for all heads (TokenOrder) or one for each
        (TokenPermutation). None: the raster sequence as it is.
      exact: bool scalar; where true, attention is exact whatever the mask says (AdaSpa's first
        search). None: never.
      deal: which heads go to which device, from `parallel.deal_heads`; None: by the mask's counts.
      full: meaning of ``mask=None``: dense attention (True), or nothing computed and output zero
        (False).
    """

    mask: BlockMask | None
    order: TokenOrder | TokenPermutation | None = None
    exact: jax.Array | None = None
    deal: jax.Array | None = None
    full: bool = static(default=True)

    def run(self, q, k, v, ctx: StepContext) -> tuple[jax.Array, jax.Array]:
        """(out [B, L, H, D], lse f32 [B, H, L]) of raster-order q, k, v, in raster order."""
        if self.mask is None:
            return attend_dense(q, k, v, ctx) if self.full else attend_nothing(q)
        mask, order = self.mask, self.order
        if self.exact is None:
            return attend_blocks(q, k, v, mask, order, ctx, self.deal)
        return jax.lax.cond(
            self.exact,
            lambda q, k, v: attend_dense(q, k, v, ctx),
            lambda q, k, v: attend_blocks(q, k, v, mask, order, ctx, self.deal),
            q,
            k,
            v,
        )


class AttentionPattern(abc.ABC):
    """How one layer attends. Frozen and hashable; state is a value."""

    @abc.abstractmethod
    def init(self, grid: VideoGrid, *, batch: int, num_heads: int, head_dim: int) -> Any:
        """State before the first step. Its tree structure, shapes and dtypes never change."""

    @abc.abstractmethod
    def attend(self, q, k, v, state, ctx: StepContext) -> tuple[jax.Array, Any]:
        """(out, state) of q, k, v [B, L, H, D] in raster order, after RoPE; out as q.

        In Phase.DENSE the output is exact. Text beyond ``ctx.text_lengths`` changes nothing and its
        rows are zero.
        """


class BlockSparsePattern(AttentionPattern):
    """A pattern whose output is a softmax over chosen block pairs."""

    @abc.abstractmethod
    def plan(self, q, k, state, ctx: StepContext) -> tuple[AttentionPlan, Any]:
        """(plan, state): the block pairs that this step computes; never called in Phase.DENSE."""

    @abc.abstractmethod
    def update(self, q, k, lse, state, ctx: StepContext) -> Any:
        """State after the launch, whose lse is f32 [B, H, L] in raster order; not called in
        Phase.DENSE.
        """

    def attend(self, q, k, v, state, ctx):
        """See `AttentionPattern.attend`."""
        out, _, state = self.attend_with_lse(q, k, v, state, ctx)
        return out, state

    def attend_with_lse(self, q, k, v, state, ctx: StepContext):
        """(out, lse, state): as `attend`, with the lse of the kept logits, f32 [B, H, L]."""
        check_inputs(q, k, v, ctx)
        if ctx.phase is Phase.DENSE:
            return *attend_dense(q, k, v, ctx), state
        plan, state = self.plan(q, k, state, ctx)
        out, lse = plan.run(q, k, v, ctx)
        return out, lse, self.update(q, k, lse, state, ctx)


class StaticPattern(BlockSparsePattern):
    """A pattern that depends on positions alone: no state, one mask for a grid."""

    @abc.abstractmethod
    def token_order(self, grid: VideoGrid) -> TokenOrder:
        """Block order in which `keep_blocks` is expressed."""

    @abc.abstractmethod
    def keep_blocks(self, grid: VideoGrid, num_heads: int) -> np.ndarray:
        """Block pairs to compute, bool [H|1, N, N] (numpy), text blocks last."""

    def block_mask(self, grid: VideoGrid, num_heads: int, text_lengths=None) -> BlockMask:
        """The mask in this pattern's block order, heads [H|1]; built once for equal arguments."""
        mask = _static_mask(self, grid, num_heads)
        return with_lengths(mask, self.token_order(grid), grid, text_lengths)

    def init(self, grid, *, batch, num_heads, head_dim):
        """No state. Builds the mask, so that a pattern that does not fit is refused here."""
        del batch, head_dim
        _static_mask(self, grid, num_heads)
        return ()

    def plan(self, q, k, state, ctx):
        """The pattern's mask, with this step's text lengths."""
        del k
        mask = self.block_mask(ctx.grid, q.shape[2], ctx.text_lengths)
        return AttentionPlan(mask, self.token_order(ctx.grid)), state

    def update(self, q, k, lse, state, ctx):
        """Nothing to remember."""
        del q, k, lse, ctx
        return state


def attend_nothing(q) -> tuple[jax.Array, jax.Array]:
    """Attention to no key: out 0, lse -inf."""
    batch, length, heads, _ = q.shape
    return jnp.zeros_like(q), jnp.full((batch, heads, length), -jnp.inf, np.float32)


def check_inputs(q, k, v, ctx: StepContext) -> None:
    """ValueError unless q, k, v are one sequence of the context's grid."""
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.ndim != 4 or x.shape != q.shape or x.dtype != q.dtype:
            raise ValueError(
                f"{name} is {x.dtype} {x.shape} and q is {q.dtype} {q.shape}; "
                "q, k and v must be [batch, tokens, heads, head_dim] of one shape and dtype"
            )
        check_dtype(name, x)
    if q.shape[1] != ctx.grid.num_tokens:
        raise ValueError(
            f"q has {q.shape[1]} tokens, but {ctx.grid} has {ctx.grid.num_tokens} "
            f"({ctx.grid.num_video_tokens} of video, {ctx.grid.text_len} of text); pass the grid "
            "of this sequence"
        )
    if ctx.text_lengths is not None and ctx.text_lengths.shape[0] != q.shape[0]:
        raise ValueError(
            f"text_lengths has {ctx.text_lengths.shape[0]} entries, but q has {q.shape[0]} batch "
            "rows; "
            "give one length for each row"
        )


def with_lengths(
    mask: BlockMask, order: TokenOrder, grid: VideoGrid, text_lengths=None
) -> BlockMask:
    """`mask` with the real tokens of each block of `order`; text_lengths int32 [B] or None."""
    lengths = order.mask_lengths(text_lengths if grid.text_len else None)
    return dataclasses.replace(mask, q_lengths=lengths, kv_lengths=lengths)


@functools.lru_cache(maxsize=64)
def _static_mask(pattern: StaticPattern, grid: VideoGrid, num_heads: int) -> BlockMask:
    order, keep = pattern.token_order(grid), pattern.keep_blocks(grid, num_heads)
    expected = (order.num_blocks, order.num_blocks)
    if keep.ndim != 3 or keep.shape[0] not in (1, num_heads) or keep.shape[1:] != expected:
        raise ValueError(
            f"{type(pattern).__name__}.keep_blocks gave {keep.shape} for {num_heads} heads; "
            f"it must be [heads or 1, {order.num_blocks}, {order.num_blocks}] for {grid}"
        )
    return BlockMask.from_dense(keep, block_q=order.block, block_kv=order.block)
