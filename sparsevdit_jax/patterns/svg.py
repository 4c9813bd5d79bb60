"""SVG: each head is spatial or temporal, found online from a few rows (Sparse VideoGen, arXiv 2502.01776)."""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels import BlockMask
from pallas_kernels._values import flag, listed, share, whole, wholes
from sparsevdit_jax.context import StepContext
from sparsevdit_jax.grid import VideoGrid
from sparsevdit_jax.masks.blocks import band_width, with_text
from sparsevdit_jax.masks.frame_bands import fitted_block
from sparsevdit_jax.method import Method, warm_up
from sparsevdit_jax.ops import density
from sparsevdit_jax.pattern import AttentionPattern, AttentionPlan
from sparsevdit_jax.schedule import Phase
from sparsevdit_jax.token_order import TokenOrder
from sparsevdit_jax.token_permutation import TokenPermutation

SITE_MAJOR = (1, 2, 0)


class _Dialect(NamedTuple):
    """What the authors' code does for a model."""

    sink: bool  # the first P tokens, in the head's own order, are seen by all
    rounds_up: bool  # width up to whole units and |q - k| <= width; else down, and <
    profile_frames: float  # half width of the profiling masks
    profile_from_text: (
        bool  # spatial profiling blocks are counted over text and video; temporal ones lack text
    )


_DIALECTS = {
    "wan": _Dialect(True, True, 2, False),
    "hunyuanvideo": _Dialect(False, False, 1.5, False),
    "cogvideox": _Dialect(False, False, 1.5, True),
}


@dataclasses.dataclass(frozen=True)
class SVG(AttentionPattern):
    """A band along the diagonal, in frame-major order for spatial heads and site-major for temporal ones.

    In every sparse step, a few query rows are attended to in full and under two profiling masks, one for
    each kind; the mask of the smaller mean square error decides, for each head and batch row. Then all
    heads take one band, in the order of their kind. Follows svg-project/Sparse-VideoGen 5ce7b01.

    The profiling masks are not the band: they are bands of blocks of `unit` tokens, of a fixed half width
    (two frames for Wan, else one and a half). They are the code's, for CogVideoX too, where the spatial one
    counts its blocks from the start of the text and the temporal one leaves the text out.

    Differs from the code: the band is cut into blocks of `block` tokens, and a block that holds one pair of
    it is kept whole (the code's kernel reads the same blocks and masks inside of them; ``block=1`` gives
    its band token by token). Bands are at least one unit wide. Text beyond its length has no weight in the
    profile, and a text row sees everything there. Rows are drawn from the video.

    A pattern is deterministic: with a number of `rows`, they are drawn, with repetition, from `seed` and
    the step, alike in every layer; or they are given.

    State: int32 [B, H], the kinds chosen last, 0 spatial and 1 temporal.

    Attributes:
      density: kept / all pairs, which sets the band's width; the authors' flag calls it sparsity.
      dialect: "wan", "hunyuanvideo" or "cogvideox".
      width: half width of the band in frames, in place of that of `density`; None: by `density`.
      sink: the first P tokens of the head's own order are seen by all; None: by the dialect (Wan alone).
      rows: number of sampled rows, or their places in the sequence.
      rows_below: rows are drawn from so many first video tokens; None: from all.
      seed: of drawn rows.
      block: tokens in a block.
      unit: tokens, to whole ones of which the width is rounded; also the blocks of the profiling masks.
    """

    density: float = 0.25
    dialect: str = "wan"
    width: float | None = None
    sink: bool | None = None
    rows: int | tuple[int, ...] = 64
    rows_below: int | None = 10_000
    seed: int = 0
    block: int = 128
    unit: int = 128

    takes_density = True

    def __post_init__(self):
        if self.dialect not in _DIALECTS:
            raise ValueError(f"dialect={self.dialect!r} must be one of {tuple(_DIALECTS)}")
        checked: dict = dict(
            density=share("density", self.density, remedy="kept token pairs / all pairs"),
            block=whole("block", self.block, 1, remedy="it counts tokens"),
            unit=whole("unit", self.unit, 1, remedy="it counts tokens"),
            seed=whole("seed", self.seed),
        )
        if self.width is not None:
            number = isinstance(self.width, int | float) and not isinstance(self.width, bool)
            if not number or not 0 < self.width < math.inf:
                raise ValueError(
                    f"width={self.width!r} must be a number of frames above 0, or None"
                )
            checked["width"] = float(self.width)
        if self.sink is not None:
            checked["sink"] = flag("sink", self.sink)
        if self.rows_below is not None:
            checked["rows_below"] = whole("rows_below", self.rows_below, 1)
        remedy = "count rows, or give their places in the sequence"
        if isinstance(self.rows, int | np.integer):
            checked["rows"] = whole("rows", self.rows, 1, remedy=remedy)
        else:
            rows = listed("rows", self.rows, f"must be a number or a sequence; {remedy}")
            checked["rows"] = wholes("rows", rows, remedy=remedy)
            if not rows:
                raise ValueError(f"rows=() has no row; {remedy}")
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def with_density(self, density):
        """This pattern with a band of another density."""
        return dataclasses.replace(self, density=density, width=None)

    def orders(self, grid) -> tuple[TokenOrder, TokenOrder]:
        """Block orders of spatial and of temporal heads."""
        return TokenOrder(grid, self.block), TokenOrder(grid, self.block, axes=SITE_MAJOR)

    def block_on(self, grid):
        """`block`."""
        del grid
        return self.block

    def init(self, grid, *, batch, num_heads, head_dim):
        """All heads spatial."""
        del head_dim
        if not isinstance(self.rows, int) and max(self.rows) >= grid.num_tokens:
            raise ValueError(
                f"rows={self.rows} must lie below {grid.num_tokens}, the tokens of {grid}; count rows "
                "from 0"
            )
        return jnp.zeros((batch, num_heads), np.int32)

    def prepare(self, q, k, v, state, ctx):
        """The kind of each head."""
        del state
        return self.choose(q, k, v, ctx)

    def plan(self, q, k, state, ctx):
        """The band, in the orders of the kinds in the state."""
        del q, k
        order = TokenPermutation.choose(self.orders(ctx.grid), state, ctx.text_lengths)
        return AttentionPlan(self.band(ctx), order), state

    def density_on(self, grid, num_heads, *, state=None, step=0, text_lengths=None):
        """The band's, which both kinds share."""
        del state
        ctx = StepContext(grid, Phase.REUSE, step, text_lengths)
        kept = density(self.band(ctx), self.orders(grid)[0], None, ctx)
        return np.broadcast_to(kept, num_heads).copy()

    def choose(self, q, k, v, ctx: StepContext) -> jax.Array:
        """Kind of each head and row, int32 [B, H]: 0 spatial, 1 temporal, and 0 where both are as good."""
        return jnp.argmin(self.errors(q, k, v, ctx), axis=0).astype(np.int32)

    def errors(self, q, k, v, ctx: StepContext) -> jax.Array:
        """Mean square error of the sampled rows under each profiling mask, f32 [2, B, H]."""
        rows = self.sampled_rows(ctx)
        q, k, v = (jax.lax.stop_gradient(x) for x in (q[:, rows], k, v))
        scale = q.shape[-1] ** -0.5 if ctx.kernel.scale is None else ctx.kernel.scale
        profiles = self.profiles(ctx.grid, rows)
        real = jnp.ones((q.shape[0], ctx.grid.num_tokens), bool)
        if ctx.grid.text_len and ctx.text_lengths is not None:
            place = np.arange(ctx.grid.num_tokens, dtype=np.int32) - np.int32(ctx.grid.text_start)
            is_text = (place >= 0) & (place < ctx.grid.text_len)
            real = ~is_text[None] | (place[None] < jnp.asarray(ctx.text_lengths)[:, None])

        def of_one(q, k, v, real):  # q [rows, D], k and v [L, D]: an einsum of all masks is slower
            q, k, v = (x.astype(np.float32) for x in (q, k, v))
            logits = (q * np.float32(scale)) @ k.T

            def out(keep):
                return jax.nn.softmax(jnp.where(keep, logits, -jnp.inf), axis=-1) @ v

            exact = out(real[None])
            errors = [jnp.square(out(keep & real[None]) - exact).mean() for keep in profiles]
            return jnp.stack(errors)

        def of_head(head):  # one by one, so that logits are [B, rows, L] and k and v are not copied
            own = (jax.lax.dynamic_index_in_dim(x, head, 2, keepdims=False) for x in (q, k, v))
            return jax.vmap(of_one)(*own, real)

        heads = np.arange(q.shape[2], dtype=np.int32)
        return jnp.moveaxis(jax.lax.map(of_head, heads), -1, 0).swapaxes(1, 2)

    def sampled_rows(self, ctx: StepContext) -> jax.Array | np.ndarray:
        """Places in the sequence of the sampled rows, int32 [rows]."""
        if not isinstance(self.rows, int):
            return np.asarray(self.rows, np.int32)
        count = ctx.grid.num_video_tokens
        below = count if self.rows_below is None else min(self.rows_below, count)
        key = jax.random.fold_in(jax.random.key(self.seed), ctx.step)
        rows = jax.random.randint(key, (self.rows,), 0, below, np.int32)
        return rows + np.int32(ctx.grid.video_start)

    def profiles(self, grid: VideoGrid, rows) -> jax.Array:
        """Rows of the two profiling masks, spatial and temporal: bool [2, rows, L], both in raster order.

        Args:
          grid: the sequence.
          rows: int32 [rows], places of video tokens.
        """
        dialect, size = _DIALECTS[self.dialect], grid.height * grid.width
        reach = max(1, math.floor(size * dialect.profile_frames / self.unit))  # units, exclusive
        units = -(-grid.num_video_tokens // self.unit)
        raster = np.arange(grid.num_tokens, dtype=np.int32)
        video = raster - np.int32(grid.video_start)
        is_video = (video >= 0) & (video < grid.num_video_tokens)
        frame, site = np.divmod(video, np.int32(size))
        temporal = site * np.int32(grid.frames) + frame
        spatial = raster if dialect.profile_from_text else video
        in_order = ((spatial, True), (temporal, not dialect.profile_from_text))
        rows = jnp.asarray(rows, np.int32)
        masks = []
        for place, sees_text in in_order:
            unit = np.where(is_video, place // self.unit, units).astype(np.int32)
            unit = np.where(unit < units, unit, 3 * units)  # near to nothing, not even to itself
            mine = jnp.asarray(unit)[rows][:, None]
            keep = (jnp.abs(mine - unit[None]) < reach) & (unit < units)[None]
            always = is_video & (place < size) & dialect.sink
            keep = keep | (always | ~is_video & sees_text)[None]
            masks.append(keep | ~jnp.asarray(is_video)[rows][:, None])
        return jnp.stack(masks)

    def band(self, ctx: StepContext) -> BlockMask:
        """The band's mask; in numpy unless the step has a traced density."""
        if ctx.density is None:
            return _known_band(self, ctx.grid)
        keep = self.keep_blocks(ctx.grid, band_width(ctx.grid, ctx.density))
        widest = self if ctx.room is None else self.with_density(ctx.room)
        order = self.orders(ctx.grid)[0]
        counts = _known_band(widest, ctx.grid).kv_counts[..., : order.num_video_blocks]
        capacity = max(1, min(int(counts.max()), order.num_blocks - 1))
        return BlockMask.from_dense(
            keep, block_q=self.block, block_kv=self.block, capacity=capacity
        )

    def keep_blocks(self, grid: VideoGrid, width):
        """Block pairs of a band of `width` frames, bool [N, N], text last; traced where `width` is."""
        xp = jnp if isinstance(width, jax.Array) else np
        size, up = grid.height * grid.width, _DIALECTS[self.dialect].rounds_up
        units = xp.maximum((xp.ceil if up else xp.floor)(width * size / self.unit), 1)
        reach = units * self.unit - int(not up)  # largest |q - k| that is kept
        order = self.orders(grid)[0]
        begin = np.arange(order.num_video_blocks, dtype=np.float32) * np.float32(self.block)
        apart = np.maximum(np.abs(begin[:, None] - begin) - self.block + 1, 0)
        keep = apart <= reach
        if _DIALECTS[self.dialect].sink if self.sink is None else self.sink:
            keep = keep | (begin < size)[None]
        return with_text(keep, order)


@functools.lru_cache(maxsize=64)
def _known_band(pattern: SVG, grid: VideoGrid) -> BlockMask:
    width = band_width(grid, pattern.density) if pattern.width is None else pattern.width
    keep = pattern.keep_blocks(grid, width)
    return BlockMask.from_dense(keep, block_q=pattern.block, block_kv=pattern.block)


def _for(dialect, density, rows=64, rows_below=10_000):
    def pattern(grid, num_heads, layer):
        del num_heads, layer
        block = fitted_block(grid)
        return SVG(density, dialect, rows=rows, rows_below=rows_below, block=block, unit=block)

    return pattern


METHODS = (
    Method(
        name="svg",
        title="Sparse VideoGen",
        source="arXiv 2502.01776; scripts of svg-project/Sparse-VideoGen for 720p",
        pattern=_for("wan", 0.3),
        schedule=warm_up(0.2),
        dense_layers=lambda num_layers: tuple(range(math.floor(0.03 * num_layers))),
        models={
            "hunyuanvideo": dict(pattern=_for("hunyuanvideo", 0.25), schedule=warm_up(0.1)),
            "cogvideox": dict(
                pattern=_for("cogvideox", 0.25, 32, None),
                dense_layers=lambda num_layers: tuple(range(math.ceil(0.025 * num_layers))),
            ),
        },
    ),
)
