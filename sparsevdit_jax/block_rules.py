"""Scores of block pairs -> which are kept, bool: rules whose rows may keep different numbers.

Ties go to the lowest index where nothing else is said. Where every row of a head keeps the same
number, the lists of `selection.top_blocks` are cheaper.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels import BlockMask
from sparsevdit_jax.token_order import TokenOrder


def keep_top(scores: jax.Array, counts: Any) -> jax.Array:
    """The `counts` highest entries of each row, as bool of the shape of `scores`.

    Args:
      scores: f32 [..., N].
      counts: int32, broadcasts to ``scores.shape[:-1]``; 0 keeps nothing.
    """
    return _keep_first(scores, _descending(scores), counts)


def keep_share(weights: jax.Array, share: float, *, crossing: bool, least: Any = 0) -> jax.Array:
    """The heaviest entries of each row, in turn while their sum is at most `share`: bool [..., N].

    Args:
      weights: f32 [..., N], not negative.
      share: of the sum of a row, where rows sum to 1.
      crossing: also keep the entry whose weight takes the sum past `share`.
      least: entries that are kept in any case, int32 that broadcasts to ``weights.shape[:-1]``.
    """
    ranked = _descending(weights)
    counts = (jnp.cumsum(ranked, axis=-1) <= share).sum(-1, dtype=np.int32) + int(crossing)
    counts = jnp.clip(jnp.maximum(counts, least), 0, weights.shape[-1])
    return _keep_first(weights, ranked, counts)


def keep_from(scores: jax.Array, counts: Any) -> jax.Array:
    """Entries not below the `counts`-th highest of their row: bool [..., N]. Ties are all kept.

    Args:
      scores: f32 [..., N].
      counts: int32, broadcasts to ``scores.shape[:-1]``; from 1 on.
    """
    return scores >= _at(_descending(scores), counts)


def video_mask(keep: jax.Array, order: TokenOrder, capacity: int | None = None) -> BlockMask:
    """The mask of `keep`, bool [B, H, Nv, Nv] over video blocks; text rows and columns are kept.

    Args:
      keep: which video blocks a video block reads.
      order: block order.
      capacity: video blocks that a row keeps at most, where it is not full; None: any number.
    """
    text = order.num_text_blocks
    keep = jnp.pad(keep, ((0, 0), (0, 0), (0, text), (0, text)), constant_values=True)
    if capacity is not None:
        capacity = min(capacity + text, order.num_blocks)
    return BlockMask.from_dense(keep, block_q=order.block, block_kv=order.block, capacity=capacity)


def _descending(scores):
    return -jnp.sort(-scores, axis=-1)


def _at(ranked, counts):
    """The value of rank `counts`, from 1, of each row: [..., 1]."""
    counts = jnp.broadcast_to(jnp.asarray(counts, np.int32), ranked.shape[:-1])
    return jnp.take_along_axis(ranked, jnp.maximum(counts - 1, 0)[..., None], axis=-1)


def _keep_first(scores, ranked, counts):
    """The first `counts` of each row by rank; of equal ones at the end those of lowest index."""
    last = _at(ranked, counts)
    counts = jnp.broadcast_to(jnp.asarray(counts, np.int32), ranked.shape[:-1])[..., None]
    above, equal = scores > last, scores == last
    left = counts - above.sum(-1, keepdims=True, dtype=np.int32)
    return (counts > 0) & (above | (equal & (jnp.cumsum(equal, -1, dtype=np.int32) <= left)))
