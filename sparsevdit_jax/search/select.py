"""Scores of block pairs -> lists of blocks. Ties go to the lowest index; counts are rounded half
up.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np


def round_half_up(x):
    """Nearest integer, halves up: the one rounding of every block count. Traced for traced x."""
    if isinstance(x, jax.Array):
        return jnp.floor(x + 0.5).astype(np.int32)
    return math.floor(x + 0.5)


def block_budget(
    density, num_blocks: int, least: int = 1, *, most: int | None = None, less: int = 0
):
    """Blocks of a row: ``round(density * num_blocks) - less``, half up, in least..most.

    Args:
      density: share of the blocks; where it is traced, so is the result.
      num_blocks: all blocks.
      least: smallest result.
      most: largest result, `num_blocks` by default.
      less: blocks that the budget pays for besides.
    """
    most = num_blocks if most is None else most
    count = round_half_up(density * num_blocks) - less
    if isinstance(count, jax.Array):
        return jnp.clip(count, least, most)
    return min(max(count, least), most)


def rank_blocks(scores: jax.Array, capacity: int) -> jax.Array:
    """Indices of the `capacity` highest scores of each row, best first, ties by index: int32 [...,
    capacity].
    """
    return jax.lax.top_k(scores, capacity)[1].astype(np.int32)


def list_ranked(ranked: jax.Array, counts: jax.Array | int, num_blocks: int) -> jax.Array:
    """The first `counts` of each row of `ranked`, ascending; unused slots hold `num_blocks`: int32
    [..., S].

    Args:
      ranked: int32 [..., S], from `rank_blocks`.
      counts: int32, broadcasts to ``ranked.shape[:-1]``; at most S.
      num_blocks: N, above every index.
    """
    counts = jnp.broadcast_to(jnp.asarray(counts, np.int32), ranked.shape[:-1])
    rank = np.arange(ranked.shape[-1], dtype=np.int32).reshape((1,) * (ranked.ndim - 1) + (-1,))
    return jnp.sort(jnp.where(rank < counts[..., None], ranked, np.int32(num_blocks)), axis=-1)


def row_top_k(scores: jax.Array, count: int) -> jax.Array:
    """The `count` highest entries of each row as ascending indices, ties by index: int32 [...,
    count].
    """
    return list_ranked(rank_blocks(scores, count), count, scores.shape[-1])


def head_levels(recall: jax.Array, threshold: float) -> jax.Array:
    """Which heads can do with fewer blocks and which get theirs: int32 [..., H], -1, 0 or +1.

    n heads have a recall above `threshold` (at most half of all heads count); the n best are marked
    -1, the n worst +1. Equal recalls are ordered by head.

    Reference: AdaSpa (arXiv 2502.21079), head-adaptive sparsity. The cap at H // 2 is ours.
    """
    heads = recall.shape[-1]
    n = jnp.minimum((recall > threshold).sum(-1, keepdims=True, dtype=np.int32), heads // 2)
    order = jnp.argsort(-recall, axis=-1, stable=True)
    rank = jnp.argsort(order, axis=-1).astype(np.int32)
    return jnp.where(rank >= heads - n, 1, 0) - jnp.where(rank < n, 1, 0)


def head_adaptive_density(recall: jax.Array, density: float, threshold: float = 0.8) -> jax.Array:
    """Density of each head: d, d - delta or d + delta with delta = min(d / 2, 1 - d); the mean
    stays d.

    In the paper's words, with s = 1 - d: (1 + s) / 2 for the heads of high recall and (3 s - 1) / 2
    for as many of low recall. Differs: where 3 s < 1 both sides move by 1 - d, so that the mean is
    kept.
    """
    delta = min(density / 2, 1 - density)
    return density + np.float32(delta) * head_levels(recall, threshold).astype(np.float32)


def head_adaptive_counts(count, num_blocks: int) -> tuple:
    """(low, base, high) blocks of a row for levels -1, 0, +1, symmetric about `count` so that the
    mean is exact.
    """
    if isinstance(count, jax.Array):
        delta = jnp.minimum((count + 1) // 2, jnp.minimum(num_blocks - count, count - 1))
    else:
        delta = min(round_half_up(count / 2), num_blocks - count, count - 1)
    return count - delta, count, count + delta
