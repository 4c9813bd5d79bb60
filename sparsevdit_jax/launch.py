"""Attention of raster-order sequences: the calls of kernels that patterns and models are made of.

Each runs on this device, or under a mesh on all of them (`parallel`): whole heads on each, or where
there are fewer heads than devices with keys and values that travel. q, k, v are [B, L, H, D].
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels import BlockMask, block_mass, block_sparse_attention, dense_attention
from sparsevdit_jax import parallel
from sparsevdit_jax.parallel import heads, ring
from sparsevdit_jax.parallel.mesh import current, spec
from sparsevdit_jax.schedule import StepContext
from sparsevdit_jax.token_order import TokenOrder
from sparsevdit_jax.token_permutation import TokenPermutation

Order = TokenOrder | TokenPermutation | None
_DENSE_BLOCK = 128  # tokens; of dense attention's mask where keys travel


def attend_blocks(
    q, k, v, mask: BlockMask, order: Order, ctx: StepContext, deal: Any = None
) -> tuple[jax.Array, jax.Array]:
    """(out, lse f32 [B, H, L]) over the block pairs of `mask`, which is in the order of `order`.

    Args:
      q: queries, as are k and v.
      k: keys.
      v: values.
      mask: the block pairs.
      order: block order; None is the raster order.
      ctx: the step's grid, scale and implementation.
      deal: which heads go to which device (`parallel.deal_heads`); None: by the mask's counts.
    """
    shards = current()
    if shards is None:
        return _blocks_here(q, k, v, mask, order, ctx)
    if shards.uses_ring(q.shape[2]):
        return _blocks_in_ring(q, k, v, mask, order, ctx, shards)
    if deal is None and mask.kv_counts.shape[1] > 1 and shards.tokens > 1:
        work = mask.kv_counts.sum((0, 2))
        deal = parallel.deal_heads(work, shards.tokens)
    permuted = isinstance(order, TokenPermutation)
    by_head = jax.tree.map(lambda a: a[None], order) if permuted else None

    def attend(qkv, _, heads):
        mask, by_head = heads
        mine = jax.tree.map(lambda a: a[0], by_head) if permuted else order
        out, lse = _blocks_here(*qkv, mask, mine, ctx)
        return (out,), lse

    (out,), lse = heads.over_heads(
        attend, (q, k, v), heads=(mask, by_head), deal=deal, shards=shards
    )
    return out, lse


def attend_dense(q, k, v, ctx: StepContext) -> tuple[jax.Array, jax.Array]:
    """Exact attention among the real tokens: (out, lse f32 [B, H, L])."""
    shards = current()
    if shards is None:
        return _dense_here(q, k, v, ctx.text_lengths, ctx)
    if shards.uses_ring(q.shape[2]):
        order = TokenOrder(ctx.grid, _DENSE_BLOCK)
        lengths = order.mask_lengths(ctx.text_lengths if ctx.grid.text_len else None)
        n, block = order.num_blocks, order.block
        mask = BlockMask.full(
            n, n, block_q=block, block_kv=block, q_lengths=lengths, kv_lengths=lengths
        )
        return _blocks_in_ring(q, k, v, mask, order, ctx, shards)

    def attend(qkv, text_lengths, _):
        out, lse = _dense_here(*qkv, text_lengths, ctx)
        return (out,), lse

    (out,), lse = heads.over_heads(attend, (q, k, v), rows=ctx.text_lengths, shards=shards)
    return out, lse


def attend_across(q, k, v, *, implementation: str | None = None) -> jax.Array:
    """Dense attention of q [B, L, H, D] to another sequence's k, v [B, N, H, D], all of it real."""
    shards = current()

    def attend(q, k, v):
        return dense_attention(q, k, v, implementation=implementation)[0]

    if shards is None:
        return attend(q, k, v)
    shards.check_rows(q.shape[0])
    length, n = q.shape[1], shards.tokens
    q = jnp.pad(q, ((0, 0), (0, -length % n), (0, 0), (0, 0)))
    run = jax.shard_map(
        attend,
        in_specs=(spec(4, tokens=1), spec(4), spec(4)),
        out_specs=spec(4, tokens=1),
        check_vma=False,
    )
    return run(q, k, v)[:, :length]


def attention_mass(q, k, lse, order: TokenOrder, ctx: StepContext) -> jax.Array:
    """Attention mass of every block pair: f32 [B, H, N, N], blocks as in `order`.

    A row sums to the number of its real queries if `lse` f32 [B, H, L] is that of the same q and k.
    With the LSE of an earlier step it is AdaSpa's estimate (arXiv 2502.21079).
    """
    shards = current()
    lengths = order.mask_lengths(ctx.text_lengths if ctx.grid.text_len else None)
    if shards is None:
        return _mass_here(q, k, lse, lengths, order, ctx)
    if shards.uses_ring(q.shape[2]):
        q, k, lse = order.apply(q), order.apply(k), order.apply(lse, axis=2)
        return ring.mass(
            q, k, lse, block=order.block, scale=ctx.scale, lengths=lengths, shards=shards
        )

    def mass(qk, _, heads):
        lse, lengths = heads
        return (), _mass_here(*qk, lse, lengths, order, ctx)

    return heads.over_heads(mass, (q, k), heads=(lse, lengths), shards=shards)[1]


def _blocks_here(q, k, v, mask, order, ctx):
    return _in_order(block_sparse_attention, q, k, v, mask, order, ctx)


def _blocks_in_ring(q, k, v, mask, order, ctx, shards):
    travel = functools.partial(ring.attend, shards=shards)
    return _in_order(travel, q, k, v, mask, order, ctx)


def _in_order(attend, q, k, v, mask, order, ctx):
    if order is not None:
        q, k, v = (order.apply(x) for x in (q, k, v))
    out, lse = attend(q, k, v, mask, scale=ctx.scale, implementation=ctx.implementation)
    return (out, lse) if order is None else (order.undo(out), order.undo(lse, axis=2))


def _dense_here(q, k, v, text_lengths, ctx):
    grid = ctx.grid
    if text_lengths is None or not grid.text_len:
        return dense_attention(q, k, v, scale=ctx.scale, implementation=ctx.implementation)
    # Real tokens must come first, so text that stands before the video trades places with it.
    cut = grid.text_len if grid.text_first else 0
    lengths = jnp.asarray(text_lengths) + np.int32(grid.num_video_tokens)
    out, lse = dense_attention(
        *(_rotate(x, cut, 1) for x in (q, k, v)),
        scale=ctx.scale,
        q_lengths=lengths,
        kv_lengths=lengths,
        implementation=ctx.implementation,
    )
    back = grid.num_video_tokens if grid.text_first else 0
    return _rotate(out, back, 1), _rotate(lse, back, 2)


def _mass_here(q, k, lse, lengths, order, ctx):
    return block_mass(
        order.apply(q),
        order.apply(k),
        order.apply(lse, axis=2),
        block_q=order.block,
        block_kv=order.block,
        scale=ctx.scale,
        q_lengths=lengths,
        kv_lengths=lengths,
    )


def _rotate(x, cut, axis):
    if not cut:
        return x
    head = jax.lax.slice_in_dim(x, 0, cut, axis=axis)
    return jnp.concatenate([jax.lax.slice_in_dim(x, cut, None, axis=axis), head], axis)
