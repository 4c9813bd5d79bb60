"""Scores of block pairs -> lists of blocks. Ties go to the lowest index; counts are rounded half
up where nothing else is said.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels import BlockMask
from pallas_kernels._values import listed, share
from sparsevdit_jax.context import StepContext
from sparsevdit_jax.token_order import TokenOrder


def round_half_up(x):
    """Nearest integer, halves up: the one rounding of every block count. Traced for traced x."""
    if isinstance(x, jax.Array):
        return jnp.floor(x + 0.5).astype(np.int32)
    return math.floor(x + 0.5)


def round_up(x):
    """Smallest integer that is not below; traced for traced x."""
    return jnp.ceil(x).astype(np.int32) if isinstance(x, jax.Array) else math.ceil(x)


def round_down(x):
    """Largest integer that is not above; traced for traced x."""
    return jnp.floor(x).astype(np.int32) if isinstance(x, jax.Array) else math.floor(x)


def ceil_count(x):
    """`round_up`, where a product that is whole but for rounding counts as whole: 0.2 of 35 is 7."""
    return round_up(x * (1 - 1e-6))


def floor_count(x):
    """`round_down`, likewise: 0.7 of 10 is 7."""
    return round_down(x * (1 + 1e-6))


def densities(value: Any) -> float | tuple[float, ...]:
    """A density in (0, 1], or a tuple of one for each head; ValueError for anything else."""
    remedy = "kept blocks / all blocks of a row, or a tuple with one for each head"
    if isinstance(value, tuple | list):
        if not value:
            raise ValueError(f"density={value!r} must have an entry for each head; {remedy}")
        return tuple(share("density", d, remedy=remedy) for d in listed("density", value))
    return share("density", value, remedy=remedy)


def by_head(density: float | tuple[float, ...], ctx: StepContext, count: Callable) -> Any:
    """`count` of the density in force: an int, a traced scalar, or int32 [1, heads of this device].

    Where the step has a density of its own (`StepContext.density`) it takes the place of the mean
    over heads, and heads keep their proportions; numbers are then float32.

    Args:
      density: of all heads, or a tuple with one for each head of the layer.
      ctx: the step.
      count: density, a float or a traced array -> integers.
    """
    if ctx.density is None:
        if not isinstance(density, tuple):
            return count(density)
        return ctx.local_heads(np.array([[count(d) for d in density]], np.int32))
    own = np.asarray(density, np.float64)
    proportion = (own / own.mean()).astype(np.float32)
    counts = count(jnp.minimum(jnp.asarray(ctx.density) * proportion, np.float32(1)))
    return ctx.local_heads(counts[None]) if isinstance(density, tuple) else counts


def row_budget(
    density: float | tuple[float, ...],
    num_blocks: int,
    ctx: StepContext,
    *,
    rounding: Callable = round_half_up,
    multiple: int = 1,
    single: bool = False,
) -> tuple[Any, int]:
    """(blocks that a row keeps, the most that any row ever keeps), both in 1..`num_blocks`.

    Args:
      density: share of the blocks; of each head of the layer if it is a tuple.
      num_blocks: all blocks.
      ctx: the step, whose density is in force where it has one; see `by_head`.
      rounding: of density * num_blocks to an integer.
      multiple: counts are rounded up to a multiple of it.
      single: multiply in float32 also where the density is not traced.
    """

    def count(density):
        if single and not isinstance(density, jax.Array):
            density = np.float32(density)
        found = rounding(density * num_blocks)
        found = -(-found // multiple) * multiple
        if isinstance(found, jax.Array):
            return jnp.clip(found, 1, num_blocks)
        return min(max(found, 1), num_blocks)

    largest = np.max(density)
    if ctx.density is not None:
        most = 1.0 if ctx.room is None else ctx.room
        largest = min(most * largest / np.mean(density), 1.0)
        largest = np.nextafter(np.float32(largest), np.float32(2))  # float32 may round up
    return by_head(density, ctx, count), int(count(float(largest)))


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


def rank_with_text(
    scores: jax.Array, order: TokenOrder, capacity: int, kv_order: TokenOrder | None = None
) -> jax.Array:
    """Indices of the `capacity` best blocks of each video row, text blocks first: int32 [B, H, Nv,
    capacity].

    Args:
      scores: f32 [B, H, Nq, Nk], of query and key blocks in their orders.
      order: block order of the queries.
      capacity: video blocks that a row can keep, plus all text blocks.
      kv_order: block order of the keys; None: `order`.
    """
    columns = (kv_order or order).num_video_blocks
    # Text columns win every row: they take the first ranks and lie outside of any count.
    scores = scores[:, :, : order.num_video_blocks].at[..., columns:].set(jnp.inf)
    return rank_blocks(scores, capacity)


def ranked_mask(
    ranked: jax.Array,
    counts: jax.Array | int,
    order: TokenOrder,
    kv_order: TokenOrder | None = None,
) -> BlockMask:
    """The mask whose video rows keep the first `counts` video blocks of `ranked`, and all text.

    Args:
      ranked: from `rank_with_text`.
      counts: int32, broadcasts to [B, H]; at most the video blocks that `ranked` has room for.
      order: block order of the queries.
      kv_order: block order of the keys; None: `order`.
    """
    kv_order = kv_order or order
    text, total = kv_order.num_text_blocks, kv_order.num_blocks
    counts = jnp.broadcast_to(jnp.asarray(counts, np.int32), ranked.shape[:2])
    counts = jnp.broadcast_to(counts[..., None] + np.int32(text), ranked.shape[:-1])
    listed = list_ranked(ranked, counts, total)
    rows = ((0, 0), (0, 0), (0, order.num_text_blocks))
    return BlockMask(
        jnp.pad(jnp.where(listed == total, 0, listed), (*rows, (0, 0))),
        jnp.pad(counts, rows, constant_values=total),
        block_q=order.block,
        block_kv=kv_order.block,
        num_kv_blocks=total,
    )


def top_blocks(
    scores: jax.Array,
    density: float | tuple[float, ...],
    order: TokenOrder,
    ctx: StepContext,
    *,
    kv_order: TokenOrder | None = None,
    rounding: Callable = round_half_up,
    multiple: int = 1,
) -> BlockMask:
    """The blocks of highest score in each video row; text is kept besides, as rows and columns.

    No gradient flows through the choice.

    Args:
      scores: f32 [B, H, Nq, Nk], of query and key blocks in their orders.
      density: share of the video blocks that a row keeps, one at least; see `row_budget`.
      order: block order of the queries.
      ctx: the step.
      kv_order: block order of the keys; None: `order`.
      rounding: as in `row_budget`.
      multiple: as in `row_budget`.
    """
    columns = kv_order or order
    video, text = columns.num_video_blocks, columns.num_text_blocks
    counts, room = row_budget(density, video, ctx, rounding=rounding, multiple=multiple)
    ranked = rank_with_text(jax.lax.stop_gradient(scores), order, room + text, kv_order)
    return ranked_mask(ranked, counts, order, kv_order)


def head_levels(recall: jax.Array, threshold: float) -> jax.Array:
    """Which heads give blocks (-1), keep theirs (0) or get more (+1): int32 [..., H].

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
