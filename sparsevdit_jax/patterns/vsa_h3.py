"""VSA-H3: VSA for sequences with a prefix of several segments, as MiniMax-H3's weights were trained
(FastVideo's `video_sparse_attn_h3`; arXiv 2505.13389).
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels import BlockMask
from pallas_kernels._values import flag, wholes
from sparsevdit_jax import selection
from sparsevdit_jax.grid import VideoGrid
from sparsevdit_jax.method import Method
from sparsevdit_jax.pattern import AttentionPlan
from sparsevdit_jax.pooled import PooledPattern
from sparsevdit_jax.token_order import TokenOrder, check_tile, slot_positions
from sparsevdit_jax.token_permutation import TokenPermutation


@dataclasses.dataclass(frozen=True)
class VSAH3(PooledPattern):
    """VSA whose tiles of text never hold two segments of it, and whose side branch sees the text too.

    The text of the grid is the prefix: prompt, conditions, audio. Each of its segments is cut into tiles
    of its own. Its queries attend to everything. A video row keeps its best cubes and the prefix. The
    side branch attends from tile to tile, those of the prefix among them, and the model adds it as in
    VSA.

    Attributes:
      density: share of the cubes of video that a video row keeps: ``ceil(density * cubes)``, one at
        least; or a tuple, one for each head. A step's own density takes its place.
      tile: frames, rows and columns of a cube; a tile of the prefix has as many tokens.
      segments: tokens of each segment of the text; together the grid's text. None: it is one segment.
      compete: tiles of the prefix compete with cubes: a row keeps as many tiles as before, but the best
        of all. False: it always keeps the prefix.
    """

    density: float | tuple[float, ...] = 0.1
    tile: tuple[int, int, int] = (4, 4, 4)
    segments: tuple[int, ...] | None = None
    compete: bool = False

    sees_dense_steps = True

    def __post_init__(self):
        object.__setattr__(self, "density", selection.densities(self.density))
        object.__setattr__(self, "tile", check_tile(self.tile))
        if self.segments is not None:
            object.__setattr__(self, "segments", wholes("segments", self.segments, 1))
        object.__setattr__(self, "compete", flag("compete", self.compete))

    def token_order(self, grid):
        """None: the order is that of `tiles`, which begins with the prefix."""
        self._segments(grid)

    def tiles(self, ctx) -> TokenPermutation:
        """Tiles of the prefix, segment by segment, then cubes in raster order."""
        segments = self._segments(ctx.grid)
        gather, positions, lengths = _layout(ctx.grid, self.tile, segments)
        if ctx.text_lengths is not None and ctx.grid.text_len:
            if len(segments) > 1:
                raise ValueError(
                    f"text_lengths say nothing of segments={segments}; leave the padding of each "
                    "segment out of the sequence, or give one segment"
                )
            block = math.prod(self.tile)
            starts = np.arange(0, segments[0], block, dtype=np.int32)
            text = jnp.clip(jnp.asarray(ctx.text_lengths)[:, None] - starts[None], 0, block)
            video = jnp.broadcast_to(
                lengths[0, :, len(starts) :], (text.shape[0], lengths.shape[-1] - len(starts))
            )
            lengths = jnp.concatenate([text.astype(np.int32), video], 1)[:, None]
        return TokenPermutation(gather, positions, lengths)

    def plan(self, q, k, state, ctx):
        """The best cubes of each video row, and the prefix."""
        order, block = self.tiles(ctx), math.prod(self.tile)
        scores = jax.lax.stop_gradient(self.scores(q, k, ctx))
        total = scores.shape[-1]
        prefix = total - TokenOrder(ctx.grid, block, self.tile).num_video_blocks
        count, room = selection.row_budget(
            self.density, total - prefix, ctx, rounding=selection.ceil_count
        )
        if not self.compete:
            scores = scores.at[..., :prefix].set(jnp.inf)
        ranked = selection.rank_blocks(scores[:, :, prefix:], prefix + room)
        counts = jnp.broadcast_to(jnp.asarray(count, np.int32) + np.int32(prefix), scores.shape[:2])
        counts = jnp.broadcast_to(counts[..., None], ranked.shape[:-1])
        listed = selection.list_ranked(ranked, counts, total)
        rows = ((0, 0), (0, 0), (prefix, 0))
        mask = BlockMask(
            jnp.pad(jnp.where(listed == total, 0, listed), (*rows, (0, 0))),
            jnp.pad(counts, rows, constant_values=total),
            block_q=block,
            block_kv=block,
            num_kv_blocks=total,
        )
        return AttentionPlan(mask, order), state

    def scores(self, q, k, ctx) -> jax.Array:
        """Scaled products of the mean queries and keys of all tiles: f32 [B, H, N, N]. A tile without
        real tokens has -inf.
        """
        scale = q.shape[-1] ** -0.5 if ctx.kernel.scale is None else ctx.kernel.scale
        order = self.tiles(ctx)
        q, k = (_pool(x, order) for x in (q, k))
        exact = jax.lax.Precision.HIGHEST
        scores = np.float32(scale) * jnp.einsum("bihd,bjhd->bhij", q, k, precision=exact)
        return jnp.where(jnp.asarray(order.lengths)[:, :, None] > 0, scores, -jnp.inf)

    def side(self, q, k, v, plan, ctx):
        """Attention from tile to tile: softmax(scores) times mean values."""
        del plan
        order = self.tiles(ctx)
        weights = jax.nn.softmax(self.scores(q, k, ctx), axis=-1)
        exact = jax.lax.Precision.HIGHEST
        coarse = jnp.einsum("bhij,bjhd->bihd", weights, _pool(v, order), precision=exact)
        block = math.prod(self.tile)
        # Padding of the text has a slot too, but no result.
        place = np.arange(block, dtype=np.int32)[None, None]
        real = place < jnp.asarray(order.lengths)[:, 0, :, None]
        coarse = jnp.where(real[..., None, None], coarse[:, :, None], 0)
        return order.undo(coarse.reshape(coarse.shape[0], -1, *coarse.shape[3:])).astype(q.dtype)

    def _segments(self, grid):
        segments = (grid.text_len,) if self.segments is None else self.segments
        segments = segments if grid.text_len else ()
        if sum(segments) != grid.text_len:
            raise ValueError(
                f"segments={self.segments} have {sum(segments)} tokens, but {grid} has "
                f"{grid.text_len} of text; give the length of each segment of its text"
            )
        return segments


def _pool(x, order):
    """Means of the real tokens of each tile: f32 [B, N, H, D]."""
    lengths = jnp.asarray(order.lengths)[:, 0, :, None, None]
    x = order.apply(x).astype(np.float32)
    x = x.reshape(x.shape[0], lengths.shape[1], -1, *x.shape[2:])
    place = np.arange(x.shape[2], dtype=np.int32).reshape(1, 1, -1, 1, 1)
    total = jnp.where(place < lengths[:, :, None], x, 0).sum(2)
    return total / jnp.maximum(lengths, 1).astype(np.float32)


@functools.lru_cache(maxsize=16)
def _layout(grid: VideoGrid, tile: tuple, segments: tuple):
    """(gather [1, 1, slots], positions [1, 1, L], lengths [1, 1, N]) of all tiles, whole ones."""
    block = math.prod(tile)
    order = TokenOrder(VideoGrid(*grid.shape), block, tile)
    counts = [-(-n // block) for n in segments]
    starts = np.cumsum([0, *counts])[:-1] * block
    text = [start + np.arange(n) for start, n in zip(starts, segments, strict=True)]
    video = sum(counts) * block + slot_positions(order)
    positions = np.concatenate([*text, video] if grid.text_first else [video, *text])
    lengths = [np.minimum(n - np.arange(0, n, block), block) for n in segments]
    lengths = np.concatenate([*lengths, order.video_lengths]).astype(np.int32)
    gather = np.full(len(lengths) * block, grid.num_tokens, np.int32)
    gather[positions] = np.arange(grid.num_tokens)
    return gather[None, None], positions.astype(np.int32)[None, None], lengths[None, None]


METHODS = (
    Method(
        name="vsa-h3",
        title="VSA-H3",
        source="FastVideo, tiles of 64 tokens and sparsity 0.9 as FastH3's weights were trained",
        pattern=lambda grid, num_heads, layer: VSAH3(),
        trained=True,
    ),
)
