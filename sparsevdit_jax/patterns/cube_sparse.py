"""CubeSparse: cubes of the video compete by mean query and mean key, text is dense (SGLang, MiniMax H3)."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels import BlockMask
from pallas_kernels._values import whole
from sparsevdit_jax.block_rules import keep_top, video_mask
from sparsevdit_jax.grid import VideoGrid
from sparsevdit_jax.method import Method
from sparsevdit_jax.pattern import AttentionPlan
from sparsevdit_jax.pooled import PooledPattern, logits, pooled_scores
from sparsevdit_jax.schedule import StepSchedule
from sparsevdit_jax.selection import densities, round_down, row_budget
from sparsevdit_jax.token_order import TokenOrder, check_tile
from sparsevdit_jax.token_permutation import TokenPermutation


@dataclasses.dataclass(frozen=True)
class CubeSparse(PooledPattern):
    """Each cube of the video reads itself and the cubes whose mean keys have the largest products with its mean query.

    The number of cubes is the whole part of the float32 product of `density` and all cubes, at least
    one. A cube's own keys come on top if they are not among them. So do all text tokens, which also
    read everything. Audio that a model joins to its sequence is dense in the same way: let it be part
    of the grid's text.

    Follows SGLang's cube_sparse_attn (sgl-project/sglang #34893); there is no paper.

    Attributes:
      density: share of the cubes that a cube reads; a tuple with one for each head is a budget for
        each. Where a schedule gives densities, they take its place, as H3's ratios do.
      cube: frames, rows, columns of a cube, in tokens.
      keyframe: the grid's first frame is no part of the video after it but stands for that frame of
        it, counted from 0, and each of its tokens belongs to the cube of the token that it stands for
        (a cube may then have two blocks). None: there is no such frame.
    """

    density: float | tuple[float, ...] = 0.05
    cube: tuple[int, int, int] = (4, 4, 4)
    keyframe: int | None = None

    def __post_init__(self):
        object.__setattr__(self, "density", densities(self.density))
        object.__setattr__(self, "cube", check_tile(self.cube))
        if self.keyframe is not None:
            keyframe = whole("keyframe", self.keyframe, remedy="count the video's frames from 0")
            object.__setattr__(self, "keyframe", keyframe)

    def token_order(self, grid) -> TokenOrder | None:
        """Cube order; None with a keyframe, whose cubes are no boxes."""
        if self.keyframe is None:
            return TokenOrder(grid, math.prod(self.cube), self.cube)
        if self.keyframe >= grid.frames - 1:
            raise ValueError(
                f"keyframe={self.keyframe} must be one of the {grid.frames - 1} frames after the first "
                f"of {grid}; count them from 0"
            )
        return None

    def scores(self, q, k, ctx) -> jax.Array:
        """Scaled logits of the cubes' means, f32 [B, H, n, n]; cubes in raster order."""
        order = self.token_order(ctx.grid)
        if order is None:
            cubes = self._cubes(ctx.grid)
            return logits(cubes.means(q), cubes.means(k), ctx)
        video = order.num_video_blocks
        return pooled_scores(q, k, order, ctx)[..., :video, :video]

    def choose(self, q, k, order, ctx):
        """The cubes of highest score, and its own."""
        keep, most = self._best(self.scores(q, k, ctx), ctx)
        return video_mask(keep, order, most)

    def plan(self, q, k, state, ctx):
        """The blocks of this step; cubes with a keyframe have an order of their own."""
        if self.token_order(ctx.grid) is not None:
            return super().plan(q, k, state, ctx)
        q, k = (jax.lax.stop_gradient(x) for x in (q, k))
        keep, most = self._best(self.scores(q, k, ctx), ctx)
        cubes = self._cubes(ctx.grid)
        text, block = cubes.num_text_blocks, cubes.block
        keep = keep[:, :, cubes.owner][..., cubes.owner]
        keep = jnp.pad(keep, ((0, 0), (0, 0), (0, text), (0, text)), constant_values=True)
        capacity = min(most * int(np.bincount(cubes.owner).max()) + text, keep.shape[-1])
        mask = BlockMask.from_dense(keep, block_q=block, block_kv=block, capacity=capacity)
        return AttentionPlan(mask, cubes.order(ctx.text_lengths)), state

    def _cubes(self, grid):
        return _cubes_of(grid, self.cube, self.keyframe)

    def _best(self, scores, ctx):
        """(bool [B, H, n, n], the most that a row keeps) of scores among n cubes."""
        count = scores.shape[-1]
        counts, room = row_budget(self.density, count, ctx, rounding=round_down, single=True)
        keep = keep_top(scores, counts)
        return keep | np.eye(count, dtype=bool)[None, None], min(room + 1, count)


@dataclasses.dataclass(frozen=True, eq=False)
class _Cubes:
    """Cubes that are sets of tokens: each owns as many blocks as its tokens fill, text comes last.

    Attributes:
      grid: the sequence.
      block: slots in a block.
      label: cube of each video token, int32 [Lv].
    """

    grid: VideoGrid
    block: int
    label: np.ndarray

    @functools.cached_property
    def sizes(self) -> np.ndarray:
        """Tokens of each cube, int [n]."""
        return np.bincount(self.label)

    @functools.cached_property
    def owner(self) -> np.ndarray:
        """Cube of each video block, int [Nv]."""
        return np.repeat(np.arange(len(self.sizes)), -(-self.sizes // self.block))

    @property
    def num_text_blocks(self) -> int:
        """Blocks of text tokens."""
        return -(-self.grid.text_len // self.block)

    def means(self, x) -> jax.Array:
        """Mean of each cube's tokens, f32 [B, n, H, D] of raster x [B, L, H, D]."""
        grid = self.grid
        video = x[:, grid.video_start :][:, : grid.num_video_tokens].swapaxes(0, 1)
        count = len(self.sizes)
        sums = jax.ops.segment_sum(video.astype(np.float32), self.label, num_segments=count)
        return sums.swapaxes(0, 1) / self.sizes.astype(np.float32).reshape(1, -1, 1, 1)

    def order(self, text_lengths) -> TokenPermutation:
        """The block order, for text of these lengths, int32 [B]; None: all of the room."""
        first = np.searchsorted(self.owner, np.arange(len(self.sizes)))  # block of each cube
        by_cube = np.argsort(self.label, kind="stable")
        place = np.arange(len(by_cube)) - np.repeat(np.cumsum(self.sizes) - self.sizes, self.sizes)
        slots, room = len(self.owner) * self.block, np.arange(self.grid.text_len)
        positions = np.zeros(self.grid.num_tokens, np.int32)
        positions[self.grid.video_start + by_cube] = first[self.label[by_cube]] * self.block + place
        positions[self.grid.text_start + room] = slots + room
        gather = np.full(slots + len(room), self.grid.num_tokens, np.int32)
        gather[positions] = np.arange(len(positions))
        taken = np.bincount(positions // self.block, minlength=len(self.owner)).astype(np.int32)
        video = taken[None, : len(self.owner)]
        text = np.array([len(room)], np.int32) if text_lengths is None else text_lengths
        starts = np.arange(self.num_text_blocks, dtype=np.int32)[None] * np.int32(self.block)
        xp = jnp if isinstance(text, jax.Array) else np
        text = xp.clip(text[:, None] - starts, 0, self.block).astype(np.int32)
        video = np.broadcast_to(video, (text.shape[0], video.shape[1]))
        lengths = xp.concatenate([video, text], axis=1)[:, None]
        gather, positions = (jnp.asarray(x)[None, None] for x in (gather, positions))
        return TokenPermutation(gather, positions, lengths)


@functools.lru_cache(maxsize=16)
def _cubes_of(grid: VideoGrid, cube, keyframe: int) -> _Cubes:
    """The cubes of the frames after the first, which joins those of the frame `keyframe`."""
    frame, *place = grid.coordinates().T
    frame = np.where(frame == 0, keyframe, frame - 1)
    label = np.zeros(len(frame), int)
    shape = (grid.frames - 1, grid.height, grid.width)
    for x, n, size in zip((frame, *place), shape, cube, strict=True):
        label = label * -(-n // size) + x // size
    return _Cubes(grid, math.prod(cube), label.astype(np.int32))


_H3 = (
    *(1.0, 1.0, 0.55, 0.45, 0.35, 0.35, 0.3, 0.25, 0.25, 0.2, 0.2, 0.2, 0.15, 0.15, 0.15),
    *(0.1, 0.1, 0.1, 0.1, *(0.05,) * 30),
)
"""Ratios of the 49 updates of a run of MiniMax H3, as SGLang recommends them."""


def _h3_schedule(num_steps):
    """Those ratios, drawn out or together over any number of steps."""
    places = np.round(np.linspace(0, len(_H3) - 1, num_steps)).astype(int)
    return StepSchedule(num_steps, density=tuple(_H3[i] for i in places))


METHODS = (
    Method(
        name="cube-sparse",
        title="Cube sparse",
        source="sgl-project/sglang #34893: cubes of 4 x 4 x 4 and the ratios of MiniMax H3's steps",
        pattern=lambda grid, num_heads, layer: CubeSparse(),
        schedule=_h3_schedule,
    ),
)
