"""Dense attention by the block-sparse Triton kernels: every list is full, hence never read."""

import jax
import jax.numpy as jnp
import numpy as np

from ..block_mask import BlockMask
from ..block_sparse_attention import triton

_BLOCK = 128


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
    blocks = [-(-x.shape[1] // _BLOCK) for x in (q, k)]
    mask = BlockMask.full(
        *blocks,
        block_q=_BLOCK,
        block_kv=_BLOCK,
        q_lengths=_of_blocks(q_lengths, blocks[0]),
        kv_lengths=_of_blocks(kv_lengths, blocks[1]),
    )
    return triton.block_sparse_attention(q, k, v, mask, scale=scale)


def _of_blocks(lengths, count):
    """Real tokens of each block, int32 [B, 1, count], from those of a row, int32 [B]."""
    if lengths is None:
        return None
    first = np.arange(0, count * _BLOCK, _BLOCK, dtype=np.int32)
    return jnp.clip(lengths[:, None, None] - first.reshape(1, 1, -1), 0, _BLOCK)
