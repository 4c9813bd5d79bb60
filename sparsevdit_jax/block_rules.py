"""Rules that turn scores of block pairs into a bool matrix; rows may keep different numbers of blocks.

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
      counts: int32 of the leading axes of `scores`, such as [B|1, H|1] for all rows of a head; 0
        keeps nothing.
    """
    scores = _as_computed(scores)
    return _keep_first(scores, _highest(scores, counts), counts)


def keep_share(weights: jax.Array, share: float, *, crossing: bool, least: Any = 0) -> jax.Array:
    """The heaviest entries of each row, as long as their sum is at most `share`: bool [..., N].

    Args:
      weights: f32 [..., N], not negative.
      share: of the sum of a row, where rows sum to 1.
      crossing: also keep the entry whose weight takes the sum past `share`.
      least: entries that are kept in any case, int32 as in `keep_top`.
    """
    weights = _as_computed(weights)
    ranked = _descending(weights)
    counts = (jnp.cumsum(ranked, axis=-1) <= share).sum(-1, dtype=np.int32) + int(crossing)
    counts = jnp.clip(jnp.maximum(counts, _of_rows(least, ranked)[..., 0]), 0, weights.shape[-1])
    return _keep_first(weights, ranked, counts)


def keep_from(scores: jax.Array, counts: Any) -> jax.Array:
    """Entries not below the `counts`-th highest of their row: bool [..., N]. Ties are all kept.

    Args:
      scores: f32 [..., N].
      counts: int32 as in `keep_top`; from 1 on.
    """
    scores = _as_computed(scores)
    return scores >= _at(_highest(scores, counts), counts)


def keep_over_head(scores: jax.Array, dropped: Any) -> jax.Array:
    """Entries not below the `dropped`-th lowest of their head's whole map: bool [B, H, N, N].

    That one is kept too, so that n entries leave n - dropped + 1, and rows may be empty.

    Args:
      scores: f32 [B, H, N, N].
      dropped: int32, broadcasts to [B, H]; 0 keeps all.
    """
    scores = _as_computed(scores)
    ranked = jnp.sort(scores.reshape(*scores.shape[:2], -1), axis=-1)
    return scores >= _at(ranked, dropped)[..., None]


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


def _as_computed(scores):
    """`scores`, computed once: fused into what compares them with a rank of theirs, XLA may compute
    them again and round otherwise, and the entry of that rank would be below itself.
    """
    return jax.lax.optimization_barrier(scores)


def _descending(scores):
    return -jnp.sort(-scores, axis=-1)


def _highest(scores, counts):
    """Rows from the highest entry down, as far as rank `counts` needs them."""
    whole = isinstance(counts, int) and counts > 0
    return jax.lax.top_k(scores, counts)[0] if whole else _descending(scores)


def _at(ranked, counts):
    """The value of rank `counts`, from 1, of each row: [..., 1]."""
    counts = _of_rows(counts, ranked)
    return jnp.take_along_axis(ranked, jnp.maximum(counts - 1, 0), axis=-1)


def _of_rows(counts, ranked):
    """Counts that broadcast to the leading axes of `ranked`, as int32 [..., 1]."""
    counts = jnp.asarray(counts, np.int32)
    counts = counts.reshape(*counts.shape, *(1,) * (ranked.ndim - 1 - counts.ndim))
    return jnp.broadcast_to(counts, ranked.shape[:-1])[..., None]


def _keep_first(scores, ranked, counts):
    """The first `counts` of each row by rank; of equal ones at the end those of lowest index."""
    last, counts = _at(ranked, counts), _of_rows(counts, ranked)
    above, equal = scores > last, scores == last
    left = counts - above.sum(-1, keepdims=True, dtype=np.int32)
    return (counts > 0) & (above | (equal & (jnp.cumsum(equal, -1, dtype=np.int32) <= left)))
