"""Dense attention as block-sparse attention whose lists are all full, hence never read."""

import jax
import jax.numpy as jnp
import numpy as np

from ..block_mask import BlockMask

BLOCK = 128


def full_mask(
    length_q: int,
    length_kv: int,
    q_lengths: jax.Array | None,
    kv_lengths: jax.Array | None,
    block_q: int = BLOCK,
) -> BlockMask:
    """The mask of `length_q` by `length_kv` tokens, of which each row has `lengths` real, int32 [B]."""
    num_q, num_kv = -(-length_q // block_q), -(-length_kv // BLOCK)
    return BlockMask.full(
        num_q,
        num_kv,
        block_q=block_q,
        block_kv=BLOCK,
        q_lengths=_of_blocks(q_lengths, num_q, block_q),
        kv_lengths=_of_blocks(kv_lengths, num_kv, BLOCK),
    )


def _of_blocks(lengths, count, block):
    """Real tokens of each block, int32 [B, 1, count], from those of a row, int32 [B]."""
    if lengths is None:
        return None
    first = np.arange(0, count * block, block, dtype=np.int32)
    return jnp.clip(lengths[:, None, None] - first.reshape(1, 1, -1), 0, block)
