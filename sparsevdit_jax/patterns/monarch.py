"""Monarch: attention as a product of two block-diagonal matrices (MonarchRT, arXiv 2602.12271)."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels import dense_attention
from pallas_kernels._values import whole
from sparsevdit_jax.context import StepContext
from sparsevdit_jax.grid import VideoGrid
from sparsevdit_jax.method import Method
from sparsevdit_jax.ops import attend_dense
from sparsevdit_jax.pattern import Attended, AttentionPattern
from sparsevdit_jax.schedule import Phase

_NEVER = np.float32(-1e30)  # a logit without weight; finite, so that gradients are


@dataclasses.dataclass(frozen=True)
class Monarch(AttentionPattern):
    """Each query looks at one mixture of keys for each row of each tile, instead of at every key.

    The video is cut into tiles of `tied_frames` frames, ``height / height_parts`` rows and ``width /
    width_parts`` columns; a tile is a matrix of b1 rows (of all its frames) and b2 columns. For a tile of
    queries, column j and a row k of keys, R = softmax over that row's keys of the logits of the query at
    (k, j): the mixture R K stands for the row, with the values R V. All b1 queries of column j then take a
    softmax over all rows' mixtures, with logits q . (R K) - sum R log R. It is exact where b1 or b2 is 1: the
    logits are then the rows' log-sum-exps.

    With several iterations R is found anew from the queries that look at its row, averaged by their weights.

    Follows Infini-AI-Lab/MonarchRT 34867c0. Differs: the scale is the true one (the code's training call
    passes the number of iterations in its place). Tiles at the border of a latent grid may be ragged: their
    padding has no weight, and R of a row without a query in column j is uniform. Text takes part: its keys
    join the rows' mixtures, and its queries are dense. The code is for video alone, on grids that divide.

    Not a softmax over keys: `Attended.lse` is None. Memory is a few times that of one head's q for each
    batch row, since heads and tiles of queries follow one another; the gradient computes each tile again.

    Attributes:
      iterations: passes of R and the softmax over rows.
      tied_frames: frames in a tile.
      height_parts: tiles along the height.
      width_parts: tiles along the width.
      causal_frames: frames of a causal block, whole tiles: its queries see no later ones. None: all see all.
    """

    iterations: int = 1
    tied_frames: int = 1
    height_parts: int = 1
    width_parts: int = 1
    causal_frames: int | None = None

    def __post_init__(self):
        for name in ("iterations", "tied_frames", "height_parts", "width_parts"):
            object.__setattr__(self, name, whole(name, getattr(self, name), 1))
        if self.causal_frames is None:
            return
        causal = whole("causal_frames", self.causal_frames, 1)
        object.__setattr__(self, "causal_frames", causal)
        if causal % self.tied_frames:
            raise ValueError(
                f"causal_frames={causal} must be a multiple of tied_frames={self.tied_frames}: a block "
                "is made of whole tiles"
            )

    def tile_on(self, grid: VideoGrid) -> tuple[int, int, int]:
        """Frames, rows and columns of a tile."""
        rows = -(-grid.height // self.height_parts)
        return min(self.tied_frames, grid.frames), rows, -(-grid.width // self.width_parts)

    def density_on(self, grid, num_heads, *, state=None, step=0, text_lengths=None):
        """Effective: 1 / b1 + 1 / b2 of the video's pairs, as the paper counts, at most 1; text is full."""
        del state, step, text_lengths
        frames, rows, columns = self.tile_on(grid)
        share = min(1, 1 / (frames * rows) + 1 / columns)
        video = (grid.num_video_tokens / grid.num_tokens) ** 2
        return np.full(num_heads, 1 - video * (1 - share), np.float32)

    def compute(self, q, k, v, state, ctx):
        """Dense attention in Phase.DENSE, else the product."""
        if ctx.phase is Phase.DENSE:
            return Attended(*attend_dense(q, k, v, ctx), state)
        grid = ctx.grid
        start, count = grid.video_start, grid.num_video_tokens
        (q, text_q), (k, text_k), (v, text_v) = (_parts(x, grid) for x in (q, k, v))
        out = self._video(q, k, v, text_k, text_v, ctx)
        if not grid.text_len:
            return Attended(out, None, state)
        given = ctx.text_lengths
        own = np.full(q.shape[0], grid.text_len, np.int32) if given is None else given
        own = jnp.asarray(own)
        text, _ = dense_attention(
            text_q,
            *(jnp.concatenate(pair, 1) for pair in ((k, text_k), (v, text_v))),
            q_lengths=own,
            kv_lengths=own + np.int32(count),
            **dataclasses.asdict(ctx.kernel),
        )
        joined = (out, text) if start == 0 else (text, out)
        return Attended(jnp.concatenate(joined, 1), None, state)

    def _video(self, q, k, v, text_k, text_v, ctx: StepContext):
        """Output of the video's queries, [B, video tokens, H, D] in q's dtype."""
        grid, tile = ctx.grid, self.tile_on(ctx.grid)
        scale = q.shape[-1] ** -0.5 if ctx.kernel.scale is None else ctx.kernel.scale
        real = _tiles(np.ones((1, grid.num_video_tokens, 1), bool), grid, tile)[0, ..., 0]
        causal = grid.frames if self.causal_frames is None else self.causal_frames
        _, down, across = _counts(grid, tile)
        block = -(-causal // tile[0]) * down * across
        block = np.arange(len(real)) // block
        seen = block[:, None] >= block  # tiles of the same block and of the ones before
        place = np.arange(grid.text_len, dtype=np.int32)[None]
        is_text = jnp.ones((q.shape[0], grid.text_len), bool)
        if ctx.text_lengths is not None and grid.text_len:
            is_text = place < jnp.asarray(ctx.text_lengths)[:, None]

        attend = jax.vmap(functools.partial(self._head, real=real, seen=seen))

        def of_head(arrays):
            q, k, v, *texts = (x.astype(np.float32) for x in arrays)
            q, k, v = (_tiles(x, grid, tile) for x in (q * np.float32(scale), k, v))
            return _raster(attend(q, k, v, *texts, is_text), grid, tile).astype(arrays[0].dtype)

        heads = tuple(jnp.moveaxis(x, 2, 0) for x in (q, k, v, text_k, text_v))
        return jnp.moveaxis(jax.lax.map(of_head, heads), 0, 2)

    def _head(self, q, k, v, text_k, text_v, is_text, *, real, seen):
        """Output [A, b1, b2, D] of one head: q, k, v [A, b1, b2, D], text [T, D], `is_text` [T].

        `real` is bool [A, b1, b2], padding False; `seen` bool [A, A], of query and key tiles.
        """
        keys = real[:, :, None]  # of every row, for every column of queries
        rows = real.any(-1)

        def of_tile(arrays):
            q, seen = arrays  # [b1, b2, D], [A]

            def look(z):
                """R [A, b1, b2, b2] of logits z, and the weights of rows and text [b2, b1, A b1 + T]."""
                z = jnp.where(keys, z, _NEVER)
                r = jax.nn.softmax(z, axis=-1)
                entropy = (r * jnp.where(keys, jax.nn.log_softmax(z, axis=-1), 0)).sum(-1)
                mixed = jnp.einsum("fkjl,fkld->fkjd", r, k)
                t = jnp.einsum("fkjd,ijd->jifk", mixed, q) - entropy.transpose(2, 0, 1)[:, None]
                t = jnp.where((seen[:, None] & rows)[None, None], t, _NEVER)
                text = jnp.where(is_text[None, None], jnp.einsum("ijd,td->jit", q, text_k), _NEVER)
                both = jnp.concatenate([t.reshape(*t.shape[:2], -1), text], axis=-1)
                return r, jax.nn.softmax(both, axis=-1)

            def of_rows(weights):
                return weights[..., : rows.size].reshape(*weights.shape[:2], *rows.shape)

            z = jnp.einsum("kjd,fkld->fkjl", q, k)
            if self.iterations > 1:
                z = z * np.float32(1 / (1 + 1e-6))  # the code weighs the first pass so, too
            r, weights = look(z)
            for _ in range(self.iterations - 1):
                by_row = of_rows(weights)
                looking = jnp.einsum("jifk,ijd->fkjd", by_row, q)
                total = by_row.sum(1).transpose(1, 2, 0)[..., None]
                factor = jnp.minimum(1 / (total + np.float32(1e-6)), np.float32(1e4))
                r, weights = look(jnp.einsum("fkjd,fkld->fkjl", looking, k) * factor)
            values = jnp.einsum("fkjl,fkld->fkjd", r, v)
            out = jnp.einsum("jifk,fkjd->ijd", of_rows(weights), values)
            return out + jnp.einsum("jit,td->ijd", weights[..., rows.size :], text_v)

        return jax.lax.map(jax.checkpoint(of_tile), (q, jnp.asarray(seen)))


def _parts(x, grid):
    """(video, text) of a raster sequence."""
    cut = grid.text_len if grid.text_first else grid.num_video_tokens
    first, second = x[:, :cut], x[:, cut:]
    return (second, first) if grid.text_first else (first, second)


def _counts(grid, tile):
    return tuple(-(-n // t) for n, t in zip(grid.shape, tile, strict=True))


def _tiles(x, grid, tile):
    """[B, video tokens, D] -> [B, A, b1, b2, D], padded with zeros."""
    xp = np if isinstance(x, np.ndarray) else jnp
    batch, _, dim = x.shape
    counts = _counts(grid, tile)
    pads = [(0, c * t - n) for c, t, n in zip(counts, tile, grid.shape, strict=True)]
    x = xp.pad(x.reshape(batch, *grid.shape, dim), [(0, 0), *pads, (0, 0)])
    cut = [n for pair in zip(counts, tile, strict=True) for n in pair]
    x = x.reshape(batch, *cut, dim).transpose(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(batch, math.prod(counts), tile[0] * tile[1], tile[2], dim)


def _raster(x, grid, tile):
    """The inverse of `_tiles`."""
    batch, *_, dim = x.shape
    counts = _counts(grid, tile)
    x = x.reshape(batch, *counts, *tile, dim).transpose(0, 1, 4, 2, 5, 3, 6, 7)
    frames, rows, columns = grid.shape
    x = x.reshape(batch, *(c * t for c, t in zip(counts, tile, strict=True)), dim)
    return x[:, :frames, :rows, :columns].reshape(batch, grid.num_video_tokens, dim)


METHODS = (
    Method(
        name="monarch",
        title="MonarchRT",
        source="arXiv 2602.12271; Infini-AI-Lab/MonarchRT 34867c0: one iteration, tiles of one frame",
        pattern=lambda grid, num_heads, layer: Monarch(),
    ),
)
