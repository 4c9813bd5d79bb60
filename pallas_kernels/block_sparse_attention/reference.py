"""The semantics, in the plainest code: a token mask over all logits, softmax in float32."""

import jax
import jax.numpy as jnp

from ..block_mask import BlockMask


def block_sparse_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: BlockMask, *, scale: float, skip_below=None
) -> tuple[jax.Array, jax.Array]:
    """See `api.block_sparse_attention`; holds arrays of [B, H, Lq, Lk]."""
    dtype, lq, lk = q.dtype, q.shape[1], k.shape[1]
    q, k, v = (x.astype(jnp.float32).swapaxes(1, 2) for x in (q, k, v))
    keep = jnp.asarray(mask.to_dense())
    keep = keep.repeat(mask.block_q, -2).repeat(mask.block_kv, -1)[..., :lq, :lk]
    if (real := mask.real_queries(lq)) is not None:
        q, keep = jnp.where(real[..., None], q, 0.0), keep & real[..., :, None]
    if (real := mask.real_keys(lk)) is not None:
        k, v = (jnp.where(real[..., None], x, 0.0) for x in (k, v))
        keep = keep & real[..., None, :]

    logits = scale * jnp.einsum("bhqd,bhkd->bhqk", q, k, precision="highest")
    if skip_below is not None:
        keep = keep & _needed(jnp.where(keep, logits, -jnp.inf), mask, skip_below)
    top = jnp.max(logits, -1, keepdims=True, initial=-jnp.inf, where=keep)
    top = jax.lax.stop_gradient(jnp.where(jnp.isfinite(top), top, 0.0))
    weights = jnp.where(keep, jnp.exp(jnp.where(keep, logits - top, 0.0)), 0.0)
    total = weights.sum(-1, keepdims=True)
    empty, total = total == 0.0, jnp.where(total == 0.0, 1.0, total)
    out = jnp.einsum("bhqk,bhkd->bhqd", weights / total, v, precision="highest")
    out = jnp.where(empty, 0.0, out)  # also stops the cotangent of padding
    lse = jnp.where(empty, -jnp.inf, jnp.log(total) + top)
    return out.swapaxes(1, 2).astype(dtype), lse[..., 0]


def _needed(logits, mask, skip_below):
    """Bool [B, H, Lq, Lk]: pairs of the blocks that skip-softmax computes, -inf being no pair."""
    lq, lk = logits.shape[-2:]
    pad = [(0, 0)] * 2 + [(0, mask.block_q * mask.num_q_blocks - lq)]
    pad += [(0, mask.block_kv * mask.num_kv_blocks - lk)]
    tiles = jnp.pad(logits, pad, constant_values=-jnp.inf)
    tiles = tiles.reshape(*tiles.shape[:3], mask.num_kv_blocks, mask.block_kv).max(-1)
    gaps = jnp.where(tiles > -jnp.inf, tiles - jax.lax.cummax(tiles, axis=3), -jnp.inf)
    gaps = gaps.reshape(*gaps.shape[:2], mask.num_q_blocks, mask.block_q, -1).max(3)
    needed = gaps >= jnp.log(jnp.float32(skip_below))
    return needed.repeat(mask.block_q, 2).repeat(mask.block_kv, 3)[:, :, :lq, :lk]
