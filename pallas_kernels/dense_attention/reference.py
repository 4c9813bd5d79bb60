"""The semantics: those of block-sparse attention that keeps every block."""

import jax

from ..block_sparse_attention import reference
from ._full_mask import full_mask


def dense_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    scale: float,
    q_lengths: jax.Array | None,
    kv_lengths: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """See `api.dense_attention`; holds arrays of [B, H, Lq, Lk]."""
    mask = full_mask(q.shape[1], k.shape[1], q_lengths, kv_lengths)
    return reference.block_sparse_attention(q, k, v, mask, scale=scale)
