"""The operations that patterns are made of, on raster-order sequences q, k, v [B, L, H, D].

`engine.attend` calls patterns with whole sequences on the device. With fewer heads than devices the
tokens are sharded instead, and keys and values travel (`parallel.ring`).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from pallas_kernels import BlockMask, block_mass, block_sparse_attention, dense_attention
from sparsevdit_jax.context import StepContext
from sparsevdit_jax.parallel import ring
from sparsevdit_jax.parallel.mesh import current, spec
from sparsevdit_jax.token_order import TokenOrder
from sparsevdit_jax.token_permutation import TokenPermutation

Order = TokenOrder | TokenPermutation | None
_DENSE_BLOCK = 128  # tokens; of dense attention's mask where keys travel


def with_lengths(mask: BlockMask, q_order: Order, kv_order: Order, ctx: StepContext) -> BlockMask:
    """`mask` with the number of real tokens in each block, unless it has one."""
    kv_order = q_order if kv_order is None else kv_order
    q_lengths, kv_lengths = mask.q_lengths, mask.kv_lengths
    text = ctx.text_lengths if ctx.grid.text_len else None
    if q_lengths is None and q_order is not None:
        q_lengths = q_order.mask_lengths(text)
    if kv_lengths is None and kv_order is not None:
        kv_lengths = q_lengths if kv_order is q_order else kv_order.mask_lengths(text)
    return dataclasses.replace(mask, q_lengths=q_lengths, kv_lengths=kv_lengths)


def density(mask: BlockMask, q_order: Order, kv_order: Order, ctx: StepContext) -> np.ndarray:
    """Kept / all pairs of real tokens of each head, batch mean: f32 [H|1]. Tokens that the orders leave
    out keep nothing.
    """
    mask = with_lengths(mask, q_order, kv_order, ctx)
    kept = np.asarray(mask.density(per_head=True), np.float32)
    text = ctx.grid.text_len if ctx.text_lengths is None else np.asarray(ctx.text_lengths)
    real = np.atleast_1d(ctx.grid.num_video_tokens + text).astype(np.float64)
    pairs = np.ones(1)
    for lengths in (mask.q_lengths, mask.kv_lengths):
        pairs = pairs * (real if lengths is None else np.asarray(lengths).sum(-1).mean(1))
    pairs, real = np.broadcast_arrays(pairs, real)
    return kept * np.float32(pairs.sum() / np.square(real).sum())


def attend_blocks(
    q: Float[Array, "B L H D"],
    k: Float[Array, "B L H D"],
    v: Float[Array, "B L H D"],
    mask: BlockMask,
    q_order: Order,
    kv_order: Order,
    ctx: StepContext,
    *,
    skip_below: float | None = None,
) -> tuple[Float[Array, "B L H D"], Float32[Array, "B H L"]]:
    """(out, lse f32 [B, H, L]) over the block pairs of `mask`, in raster order.

    Args:
      q: queries.
      k: keys.
      v: values.
      mask: the block pairs, of the blocks of the orders.
      q_order: block order of the queries; None is the raster order.
      kv_order: block order of the keys; None is `q_order`.
      ctx: the step's grid, text lengths and kernel options.
      skip_below: as in `pallas_kernels.block_sparse_attention`; walks follow the block order. None
        where the tokens of a sequence lie on several devices.
    """
    kv_order = q_order if kv_order is None else kv_order
    mask = with_lengths(mask, q_order, kv_order, ctx)
    if q_order is not None:
        q = q_order.apply(q)
    if kv_order is not None:
        k, v = kv_order.apply(k), kv_order.apply(v)
    shards, options = current(), dataclasses.asdict(ctx.kernel)
    if shards is None:
        out, lse = block_sparse_attention(q, k, v, mask, **options, skip_below=skip_below)
    elif skip_below is not None:
        raise ValueError(
            f"{skip_below=} needs whole sequences, but {q.shape[2]} heads leave the tokens of one on "
            f"several devices; make the mesh's axis seq {q.shape[2]} or smaller"
        )
    else:
        out, lse = ring.attend(q, k, v, mask, **options, shards=shards)
    return (out, lse) if q_order is None else (q_order.undo(out), q_order.undo(lse, axis=2))


def attend_dense(
    q: Float[Array, "B L H D"],
    k: Float[Array, "B L H D"],
    v: Float[Array, "B L H D"],
    ctx: StepContext,
) -> tuple[Float[Array, "B L H D"], Float32[Array, "B H L"]]:
    """Dense attention among the real tokens: (out, lse f32 [B, H, L])."""
    grid, text_lengths = ctx.grid, ctx.text_lengths
    if current() is not None:
        order = TokenOrder(grid, _DENSE_BLOCK)
        n, block = order.num_blocks, order.block
        full = BlockMask.full(n, n, block_q=block, block_kv=block)
        return attend_blocks(q, k, v, full, order, None, ctx)
    options = dataclasses.asdict(ctx.kernel)
    if text_lengths is None or not grid.text_len:
        return dense_attention(q, k, v, **options)
    # Real tokens must come first, so text that stands before the video trades places with it.
    cut = grid.text_len if grid.text_first else 0
    lengths = jnp.asarray(text_lengths) + np.int32(grid.num_video_tokens)
    q, k, v = (_rotate(x, cut, 1) for x in (q, k, v))
    out, lse = dense_attention(q, k, v, q_lengths=lengths, kv_lengths=lengths, **options)
    back = grid.num_video_tokens if grid.text_first else 0
    return _rotate(out, back, 1), _rotate(lse, back, 2)


def attend_across(
    q: Float[Array, "B L H D"],
    k: Float[Array, "B N H D"],
    v: Float[Array, "B N H D"],
    *,
    implementation: str | None = None,
) -> Float[Array, "B L H D"]:
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


def attention_mass(
    q: Float[Array, "B L H D"],
    k: Float[Array, "B L H D"],
    lse: Float32[Array, "B H L"],
    order: TokenOrder,
    ctx: StepContext,
) -> Float32[Array, "B H N N"]:
    """Attention mass of every block pair: f32 [B, H, N, N], blocks as in `order`.

    A row sums to the number of its real queries if `lse` f32 [B, H, L] is that of the same q and k.
    With the LSE of an earlier step it is AdaSpa's estimate (arXiv 2502.21079).
    """
    shards, scale = current(), ctx.kernel.scale
    lengths = order.mask_lengths(ctx.text_lengths if ctx.grid.text_len else None)
    q, k, lse = order.apply(q), order.apply(k), order.apply(lse, axis=2)
    if shards is not None:
        return ring.mass(q, k, lse, block=order.block, scale=scale, lengths=lengths, shards=shards)
    return block_mass(
        q,
        k,
        lse,
        block_q=order.block,
        block_kv=order.block,
        scale=scale,
        q_lengths=lengths,
        kv_lengths=lengths,
    )


def _rotate(x, cut, axis):
    if not cut:
        return x
    head = jax.lax.slice_in_dim(x, 0, cut, axis=axis)
    return jnp.concatenate([jax.lax.slice_in_dim(x, cut, None, axis=axis), head], axis)
