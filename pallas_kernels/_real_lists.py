"""The lists that kernels read: the lists of a mask, without tiles and parts that hold only padding.

A block is filled from its start: a tile of 384 tokens at the border of a video may hold 120, and a short text leaves
whole blocks empty. So kernels count queries in tiles and keys in parts of a block; a tile without a real query lists
nothing, and no list names a part without a real key. What is left out would have added exact zeros, in the same order:
results keep every bit. The mask itself, its blocks and its capacity stay as they are.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._pytree import pytree, static
from .block_mask import ArrayLike, BlockMask

_PART = 128  # tokens: finer parts would save little, and make lists longer
_LEAST = 64


@pytree
class RealLists:
    """What each tile of queries reads, as stretches of one long list; numpy if all of the mask is.

    Attributes:
      parts: int32 [B|1, H|1, T], parts of key blocks, counted through all blocks.
      starts: int32 [B|1, H|1, tiles], where the list of a tile begins in `parts`. Tiles of one
        block share a list, and so do all that read every block.
      counts: int32 [B|1, H|1, tiles], its length.
      sizes: int32 [B|1, H|1, Nk * parts of a block], real tokens of each part; None: all are full.
      part: tokens of a part; divides a block.
    """

    parts: ArrayLike
    starts: ArrayLike
    counts: ArrayLike
    sizes: ArrayLike | None
    part: int = static()


def of(mask: BlockMask, length_q: int, length_kv: int, *, tile: int, step: int) -> RealLists:
    """The lists of a mask for a kernel.

    Where lengths are known to leave no part empty, lists are the mask's and a part is a block.

    Args:
      mask: of ceil(length_q / block_q) by ceil(length_kv / block_kv) blocks.
      length_q: queries that exist.
      length_kv: keys that exist.
      tile: queries that walk a list together; the last tile of a block may reach beyond it.
      step: keys that are multiplied at a time. A part is a multiple of it, or a block.
    """
    part = _part(mask.block_kv, step)
    of_blocks = sizes(mask.kv_lengths, length_kv, mask.block_kv, step)
    real = _cut(of_blocks, mask.block_kv, part)
    some_empty = isinstance(real, jax.Array) or (real is not None and not real.all())
    if not some_empty:
        part, real = mask.block_kv, of_blocks
    lists, counts, everything = _without_padding(mask, real, mask.block_kv // part, some_empty)
    xp, (b, h, rows, width) = _namespace(lists, counts), lists.shape
    full = mask.kv_counts == np.int32(mask.num_kv_blocks)
    starts = np.arange(rows, dtype=np.int32) * np.int32(width)
    starts = xp.where(full, np.int32(rows * width), starts)
    lead = np.broadcast_shapes((b, h), everything.shape[:2])
    flat = [xp.broadcast_to(x.reshape(*x.shape[:2], -1), (*lead, x[0, 0].size))
            for x in (lists, everything)]  # fmt: skip
    tiles = -(-mask.block_q // tile)
    starts, counts = (xp.repeat(x, tiles, -1) for x in (starts, counts))
    real_q = _cut(sizes(mask.q_lengths, length_q, mask.block_q, tile), mask.block_q, tile)
    if real_q is not None:
        xp = _namespace(counts, real_q)
        counts = xp.where(real_q > 0, counts, 0)
    starts, counts = xp.broadcast_arrays(starts, counts)
    return RealLists(xp.concatenate(flat, axis=-1), starts, counts, real, part)


def sizes(lengths: Any, length: int, block: int, tile: int) -> Any:
    """Real tokens of each block, int32 [B|1, H|1, N]; None if no tile holds anything else.

    Args:
      lengths: of each block, int32 [B|1, H|1, N], or None.
      length: tokens that exist; the last block may not be all there.
      block: tokens of a block.
      tile: tokens of a tile; the last of a block may reach beyond it.
    """
    if lengths is None and length % block == 0 and block % tile == 0:
        return None
    first = np.arange(0, length, block, dtype=np.int32).reshape(1, 1, -1)
    room = np.minimum(np.int32(length) - first, np.int32(block))
    return room if lengths is None else _namespace(lengths).minimum(lengths, room)


def _cut(real, block, tile):
    """Real tokens of each tile [B|1, H|1, N * tiles], from those of each block."""
    if real is None:
        return None
    first = np.arange(0, block, tile, dtype=np.int32).reshape(1, 1, 1, -1)
    tiles = _namespace(real).clip(real[..., None] - first, np.int32(0), np.int32(tile))
    return tiles.reshape(*real.shape[:2], -1)


def _part(block, step):
    part = math.gcd(block, _PART)
    return part if part >= _LEAST and part % step == 0 else block


def _without_padding(mask, sizes, parts, some_empty):
    """Lists [B|1, H|1, Nq, S], their counts, and the list of every real part [B|1, H|1, parts].

    The counts of full rows are those of the last.
    """
    every = np.arange(mask.num_kv_blocks * parts, dtype=np.int32).reshape(1, 1, -1)
    if not some_empty:
        return mask.kv_indices, mask.kv_counts, every
    counts = mask.kv_counts[..., None]
    full = counts == np.int32(mask.num_kv_blocks)
    slots = np.arange(mask.capacity, dtype=np.int32).reshape(1, 1, 1, -1)
    listed = (slots < counts) & ~full
    xp = _namespace(listed, mask.kv_indices, sizes)
    blocks = xp.where(listed, mask.kv_indices, 0)[..., None]
    inside = blocks * np.int32(parts) + np.arange(parts, dtype=np.int32).reshape(1, 1, 1, 1, -1)
    inside = inside.reshape(*blocks.shape[:3], -1)
    real = xp.take_along_axis(sizes[:, :, None], inside, axis=-1) > 0
    lists, short = _compact(xp, inside, real & xp.repeat(listed, parts, -1))
    everything, most = _compact(xp, every, sizes > 0)
    return lists, xp.where(full[..., 0], most[..., None], short), everything


def _compact(xp, values, kept):
    """The kept of values [..., n], in their order, then zeros; and how many are kept, [...]."""
    *lead, width = np.broadcast_shapes(values.shape, kept.shape)
    values, kept = (xp.broadcast_to(x, (*lead, width)).reshape(-1, width) for x in (values, kept))
    place = xp.where(kept, xp.cumsum(kept, -1, dtype=np.int32) - np.int32(1), np.int32(width))
    rows = np.arange(values.shape[0], dtype=np.int32)[:, None]
    counts = kept.sum(-1, dtype=np.int32)
    if xp is np:
        found = np.zeros((values.shape[0], width + 1), np.int32)
        found[rows, place] = values
        width = max(int(counts.max(initial=0)), 1)
    else:
        found = jnp.zeros(values.shape, jnp.int32).at[rows, place].set(values, mode="drop")
    return found[:, :width].reshape(*lead, width), counts.reshape(lead)


def _namespace(*arrays) -> Any:
    return jnp if any(isinstance(x, jax.Array) for x in arrays) else np
