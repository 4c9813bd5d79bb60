"""Dense attention by the block-sparse Mosaic GPU kernels."""

import jax

from ..block_sparse_attention import mosaic_gpu
from ._full_mask import BLOCK, full_mask


def dense_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    scale: float,
    q_lengths: jax.Array | None,
    kv_lengths: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """See `api.dense_attention`; refuses what the block-sparse kernels refuse."""
    # Blocks of 384 queries have tiles of 192 for head dim 64, and of 128 for its backward.
    block_q = 384 if q.shape[-1] == 64 else BLOCK
    mask = full_mask(q.shape[1], k.shape[1], q_lengths, kv_lengths, block_q)
    return mosaic_gpu.block_sparse_attention(q, k, v, mask, scale=scale)
