"""Dense attention as block-sparse attention whose lists are all full, hence never read."""

import jax
import jax.numpy as jnp
import numpy as np

from ..block_mask import BlockMask

BLOCK = 128


def full_mask(
    length_q: int, length_kv: int, q_lengths: jax.Array | None, kv_lengths: jax.Array | None
) -> BlockMask:
    """The mask of `length_q` by `length_kv` tokens, of which each row has `lengths` real, int32 [B]."""
    blocks = [-(-length // BLOCK) for length in (length_q, length_kv)]
    return BlockMask.full(
        *blocks,
        block_q=BLOCK,
        block_kv=BLOCK,
        q_lengths=_of_blocks(q_lengths, blocks[0]),
        kv_lengths=_of_blocks(kv_lengths, blocks[1]),
    )


def _of_blocks(lengths, count):
    """Real tokens of each block, int32 [B, 1, count], from those of a row, int32 [B]."""
    if lengths is None:
        return None
    first = np.arange(0, count * BLOCK, BLOCK, dtype=np.int32)
    return jnp.clip(lengths[:, None, None] - first.reshape(1, 1, -1), 0, BLOCK)
