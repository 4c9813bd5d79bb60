"""Leaves out tokens of a tile that are very similar to its centre; a kept token represents each of them.

VORTA (arXiv 2505.18809) leaves them out as queries and as keys, FastVideo's BSA (arXiv 2509.01085) as
queries. Likeness is the cosine of queries. Tiles that stick out of the video hold fewer tokens, in
their first slots.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from sparsevdit_jax.context import StepContext
from sparsevdit_jax.token_order import TokenOrder, gather_indices, slot_positions
from sparsevdit_jax.token_permutation import TokenPermutation


def likeness(
    q: Float[Array, "B L H D"], order: TokenOrder, centre: np.ndarray
) -> Float[Array, "B H T tile"]:
    """Cosine of each query of a tile and the tile's centre, float32; inf in slots without a token.

    Args:
      q: queries in raster order. No gradient flows.
      order: the tiles.
      centre: slot of each tile's centre, int [T].
    """
    tiles, tile = order.num_video_blocks, order.block
    x = order.apply(jax.lax.stop_gradient(q))
    x = jnp.pad(x, ((0, 0), (0, max(0, tiles * tile - x.shape[1])), (0, 0), (0, 0)))
    x = x[:, : tiles * tile].astype(np.float32).reshape(len(q), tiles, tile, *q.shape[2:])
    x = x / jnp.maximum(jnp.sqrt(jnp.square(x).sum(-1, keepdims=True)), 1e-12)
    middle = jnp.take_along_axis(x, np.asarray(centre).reshape(1, -1, 1, 1, 1), axis=2)
    return jnp.where(_real(order)[None, None], jnp.einsum("bnthd,bnuhd->bhnt", x, middle), np.inf)


def least_alike(likeness: Float[Array, "B H T tile"]) -> Int32[Array, "B H T tile"]:
    """Slots of each tile, those least like the centre first; equal ones by slot."""
    return jnp.argsort(likeness, axis=-1, stable=True).astype(np.int32)


def standing_in(
    slots: Int32[Array, "B H T n"],
    counts: np.ndarray,
    substitute: Int32[Array, "B H T tile"],
    order: TokenOrder,
    block: int,
    ctx: StepContext,
    *,
    by_tile: bool = False,
) -> TokenPermutation:
    """The order that holds the kept tokens of all tiles and then text; others look where one stands in.

    Args:
      slots: kept slots of each tile, the first `counts` of them.
      counts: kept tokens of each tile, int [T].
      substitute: which of the kept ones, 0 to count - 1, each token of a tile takes its result from.
      order: the tiles.
      block: slots in a block of the new order.
      ctx: the step.
      by_tile: each tile has a block of its own, which needs counts of at most `block`; otherwise the
        kept tokens are packed, tile after tile.
    """
    grid, tiles, tile = order.grid, order.num_video_blocks, order.block
    lead, length = slots.shape[:2], grid.num_tokens
    starts = np.arange(tiles) * block if by_tile else np.cumsum(counts) - counts
    video = tiles if by_tile else -(-int(counts.sum()) // block)
    text = -(-grid.text_len // block)

    token_of = np.full(tiles * tile, length, np.int32)  # of every slot of the tiles
    held = gather_indices(order)[: tiles * tile]
    token_of[: len(held)] = held
    tokens = jnp.asarray(token_of)[
        slots + (np.arange(tiles, dtype=np.int32) * tile)[None, None, :, None]
    ]
    # The kept token behind each slot of the new order; its last entry is padding.
    place = np.full(video * block, tiles * slots.shape[-1], np.int32)
    for_each = np.repeat(np.arange(tiles), counts)
    rank = np.arange(len(for_each)) - np.repeat(np.cumsum(counts) - counts, counts)
    place[starts[for_each] + rank] = for_each * slots.shape[-1] + rank
    tokens = jnp.pad(tokens.reshape(*lead, -1), ((0, 0), (0, 0), (0, 1)), constant_values=length)
    gather = jnp.take(tokens, place, axis=-1)
    written = np.full(text * block, length, np.int32)
    written[: grid.text_len] = grid.text_start + np.arange(grid.text_len)

    in_tiles = slot_positions(order)[grid.video_start :][: grid.num_video_tokens]
    slot = substitute + starts.astype(np.int32)[None, None, :, None]
    slot = jnp.take(slot.reshape(*lead, -1), in_tiles, axis=-1)
    parts = [slot, _spread(np.arange(grid.text_len) + video * block, lead)]
    filled = counts if by_tile else np.minimum(counts.sum() - np.arange(video) * block, block)
    words = (
        np.asarray([grid.text_len]) if ctx.text_lengths is None else jnp.asarray(ctx.text_lengths)
    )
    first = (np.arange(text, dtype=np.int32) * block)[None]
    xp = jnp if isinstance(words, jax.Array) else np
    words = xp.clip(words[:, None] - first, 0, block).astype(np.int32)[:, None]
    lengths = np.broadcast_to(filled.astype(np.int32), (*words.shape[:2], video))
    return TokenPermutation(
        jnp.concatenate([gather, _spread(written, lead)], -1),
        jnp.concatenate(parts[::-1] if grid.text_first else parts, -1),
        xp.concatenate([lengths, words], -1),
    )


def _real(order):
    """Bool [T, tile]: slots with a token."""
    return np.arange(order.block)[None] < order.video_lengths[:, None]


def _spread(x, lead):
    return jnp.broadcast_to(x.astype(np.int32)[None, None], (*lead, len(x)))
