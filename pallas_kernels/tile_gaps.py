"""How far the logits of a block pair stay below what its queries have seen: what skipping goes by.

Skip-softmax (BLASST) leaves out, and LiteAttention leaves out in the next step, block pairs whose
logits all lie far below the largest of the pairs walked before. Both follow from one number a pair.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from . import _checks
from ._tiles import dot
from .block_mask import BlockMask

_LOGITS = 2**22  # of one chunk of query blocks: 16 MiB


def tile_gaps(
    q: Float[Array, "B Lq H D"],
    k: Float[Array, "B Lk H D"],
    mask: BlockMask,
    *,
    scale: float | None = None,
    descending: bool = False,
    before: bool = False,
) -> Float32[Array, "B H M N"]:
    """The largest, among a block's real queries, of (largest logit in the pair - running maximum).

    A query walks the key blocks that `mask` lists, in the order of their numbers. No gradient flows.
    It takes the products of q and k that attention takes, in plain JAX, and holds no array of Lq x Lk.

    Args:
      q: [B, Lq, H, D].
      k: [B, Lk, H, D], dtype of q.
      mask: the block pairs that are walked, with the lengths of blocks.
      scale: factor on the logits, D**-0.5 by default.
      descending: the last key block is the first.
      before: the running maximum is that before the pair, and a pair may lie above it; the gap of the
        first pair of a walk is +inf. Otherwise it has the pair in it, and no gap is above 0.

    Returns:
      Natural-log units; -inf where a pair is not listed, or holds no real query or no real key.
    """
    _checks.check_same_attention_inputs(q, k=k)
    _checks.check_blocks("query", q.shape[1], mask.block_q, mask.num_q_blocks)
    _checks.check_blocks("key/value", k.shape[1], mask.block_kv, mask.num_kv_blocks)
    _checks.check_leading_axes("mask", mask.batch_and_heads, q)
    scale = _checks.resolve_scale(scale, q.shape[-1])
    (batch, length, heads, dim), count, block_q = q.shape, mask.num_kv_blocks, mask.block_q
    rows, keys = mask.num_q_blocks, count * mask.block_kv
    chunk = max(1, min(rows, _LOGITS // (block_q * keys)))
    chunks = -(-rows // chunk)
    real_q, real_kv = _real(mask.real_queries(length), q), _real(mask.real_keys(k.shape[1]), k)
    q, k = (
        jnp.where(r[..., None], x, jnp.zeros((), x.dtype)) for x, r in ((q, real_q), (k, real_kv))
    )
    q, real_q = (_lead(x, chunks * chunk * block_q) for x in (q, real_q))
    k, real_kv = (_lead(x, keys) for x in (k, real_kv))
    q = q.reshape(batch * heads, chunks, chunk * block_q, dim)
    real_q = real_q.reshape(batch * heads, chunks, chunk * block_q)
    listed = jnp.broadcast_to(jnp.asarray(mask.to_dense()), (batch, heads, rows, count))
    listed = jnp.pad(listed, ((0, 0), (0, 0), (0, chunks * chunk - rows), (0, 0)))
    listed = listed.reshape(batch * heads, chunks, chunk, count)

    def one_head(operands):
        k, real_kv, *rest = operands

        def walk(operands):
            q, real_q, listed = operands
            logits = jnp.where(real_kv[None], dot("qd,kd->qk", q, k) * np.float32(scale), -jnp.inf)
            tiles = logits.reshape(-1, count, mask.block_kv).max(-1)
            tiles = jnp.where(jnp.repeat(listed, block_q, 0), tiles, -jnp.inf)
            top = jax.lax.cummax(tiles, axis=1, reverse=descending)
            if before:
                top = jnp.pad(top, ((0, 0), (1, 1)), constant_values=-jnp.inf)
                top = top[:, 2:] if descending else top[:, :-2]
            seen = real_q[:, None] & (tiles > -jnp.inf)
            gaps = jnp.where(seen, jnp.where(seen, tiles, 0) - top, -jnp.inf)
            return gaps.reshape(chunk, block_q, count).max(1)

        return jax.lax.map(walk, tuple(rest))

    operands = k.reshape(batch * heads, keys, dim), real_kv.reshape(batch * heads, keys)
    operands = *operands, q, real_q, listed
    gaps = jax.lax.map(one_head, jax.lax.stop_gradient(operands))
    return gaps.reshape(batch, heads, -1, count)[:, :, :rows]


def without_far_tiles(q: jax.Array, k: jax.Array, mask: BlockMask, skip_below: float, scale: float):
    """`mask` without the pairs of which every weight is below `skip_below` of the largest so far."""
    needed = tile_gaps(q, k, mask, scale=scale) >= np.float32(np.log(skip_below))
    return BlockMask.from_dense(
        needed,
        block_q=mask.block_q,
        block_kv=mask.block_kv,
        q_lengths=mask.q_lengths,
        kv_lengths=mask.kv_lengths,
    )


def _real(real, x):
    """Bool [B, L, H]: real tokens of x [B, L, H, D]."""
    batch, length, heads, _ = x.shape
    if real is None:
        return jnp.ones((batch, length, heads), bool)
    return jnp.broadcast_to(real.swapaxes(1, 2), (batch, length, heads))


def _lead(x, length):
    """[B, L, H, ...] to [B, H, length, ...], filled up with zeros."""
    x = jnp.pad(x, ((0, 0), (0, length - x.shape[1]), *((0, 0),) * (x.ndim - 2)))
    return x.swapaxes(1, 2)
