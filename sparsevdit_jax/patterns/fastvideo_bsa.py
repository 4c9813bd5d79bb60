"""FastVideoBSA: fewer queries, and key tiles by their share of the mass (BSA, arXiv 2509.01085)."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels import BlockMask
from pallas_kernels._values import share, whole
from sparsevdit_jax.block_rules import keep_share
from sparsevdit_jax.context import StepContext
from sparsevdit_jax.coreset import least_alike, likeness, standing_in
from sparsevdit_jax.method import Method
from sparsevdit_jax.pattern import AttentionPattern, AttentionPlan
from sparsevdit_jax.token_order import TokenOrder, check_tile
from sparsevdit_jax.token_permutation import TokenPermutation


@dataclasses.dataclass(frozen=True)
class FastVideoBSA(AttentionPattern):
    """Of each tile the queries least like its middle one attend, to the tiles with most of their mass.

    A tile keeps ``int(tokens * query_keep)`` queries, one at least: those whose cosine to the query in
    its middle slot is smallest. The mass of a key tile is estimated as the softmax of (mean kept query
    . mean key); the heaviest tiles are kept until their sum passes `cumulative`. A query
    that was left out takes the result of the kept query nearest by slot, the earlier of two. All keys
    of a kept tile are read. Text is kept, as queries, rows and columns.

    Source: FastVideo, fastvideo/attention/backends/bsa_attn.py. There the tokens that are left out are
    those like slot 32 of 64, and the "filling" is by slot, where the paper has more. Differs: any
    latent grid will do. A tile that sticks out of the video has m tokens, its middle slot is m // 2 and it
    keeps ``max(1, int(m * query_keep))``; the authors' tiles must divide the latent grid.

    Density counts pairs of kept queries over all pairs. A block of queries has as many slots as a full
    tile keeps, 32 by default: kernels for Hopper, which need multiples of 64, refuse all but
    ``query_keep=1``.

    Attributes:
      tile: frames, rows and columns of a tile, in tokens.
      query_keep: share of a tile's queries that attend.
      cumulative: share of the estimated mass after which a row takes no more tiles.
      min_kv_blocks: video tiles that a row keeps at least.
    """

    tile: tuple[int, int, int] = (4, 4, 4)
    query_keep: float = 0.5
    cumulative: float = 0.9
    min_kv_blocks: int = 4

    def __post_init__(self):
        checked = dict(
            tile=check_tile(self.tile),
            query_keep=share("query_keep", self.query_keep, remedy="kept / all queries of a tile"),
            cumulative=share("cumulative", self.cumulative, remedy="kept mass / all mass of a row"),
            min_kv_blocks=whole("min_kv_blocks", self.min_kv_blocks, 1, remedy="it counts tiles"),
        )
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def plan(self, q, k, state, ctx):
        """The kept queries of every tile, and the tiles that each reads."""
        q, k = jax.lax.stop_gradient((q, k))
        order = self.tiles(ctx.grid)
        slots = least_alike(self.likeness(q, order))
        keep = self.keep_tiles(self.tile_mass(q, k, slots, order, ctx))
        q_order = self.query_order(slots, order, ctx)
        rows = q_order.lengths.shape[-1] - order.num_video_blocks
        text = (0, rows), (0, order.num_text_blocks)
        keep = jnp.pad(keep, ((0, 0), (0, 0), *text), constant_values=True)
        _, block = self.kept_queries(order)
        mask = BlockMask.from_dense(keep, block_q=block, block_kv=order.block)
        return AttentionPlan(mask, q_order, order), state

    def tiles(self, grid) -> TokenOrder:
        """Tile order, in which the keys stay; not that of the queries."""
        return TokenOrder(grid, math.prod(self.tile), self.tile)

    def kept_queries(self, order: TokenOrder) -> tuple[np.ndarray, int]:
        """(queries that each tile keeps, int [T]; those of a full tile)."""
        kept = np.maximum(1, np.floor(order.video_lengths * self.query_keep).astype(np.int32))
        return kept, max(1, int(order.block * self.query_keep))

    def likeness(self, q, order: TokenOrder) -> jax.Array:
        """Cosine of each query to the middle one of its tile, f32 [B, H, T, tile]."""
        return likeness(q, order, order.video_lengths // 2)

    def tile_mass(self, q, k, slots, order: TokenOrder, ctx: StepContext) -> jax.Array:
        """Estimated mass of each key tile, f32 [B, H, T, T]; rows sum to 1.

        Args:
          q: [B, L, H, D], raster order.
          k: as q.
          slots: int32 [B, H, T, tile], from `coreset.least_alike`.
          order: tile order.
          ctx: the step.
        """
        tiles, (counts, _) = order.num_video_blocks, self.kept_queries(order)
        kept = jnp.argsort(slots, axis=-1) < counts[None, None, :, None]
        x = order.apply(q)
        x = jnp.pad(x, ((0, 0), (0, max(0, tiles * order.block - x.shape[1])), (0, 0), (0, 0)))
        x = x[:, : tiles * order.block].reshape(len(q), tiles, order.block, *q.shape[2:])
        mean = jnp.einsum("bnthd,bhnt->bhnd", x.astype(np.float32), kept.astype(np.float32))
        mean = mean / counts.astype(np.float32)[None, None, :, None]
        keys = order.pool(k, ctx.text_lengths)[:, :tiles]
        scale = q.shape[-1] ** -0.5 if ctx.kernel.scale is None else ctx.kernel.scale
        return jax.nn.softmax(jnp.einsum("bhid,bjhd->bhij", mean, keys) * np.float32(scale), -1)

    def keep_tiles(self, mass) -> jax.Array:
        """Which tiles each tile reads, bool [B, H, T, T]."""
        return keep_share(mass, self.cumulative, crossing=True, least=self.min_kv_blocks)

    def query_order(self, slots, order: TokenOrder, ctx: StepContext) -> TokenPermutation:
        """The kept queries of each tile, by slot; one that was left out looks at the nearest."""
        counts, most = self.kept_queries(order)
        kept = jnp.argsort(slots, axis=-1) < counts[None, None, :, None]
        # Slot of the last kept query before each slot and of the first one after it.
        slot = np.arange(order.block, dtype=np.int32).reshape(1, 1, 1, -1)
        far = np.int32(2 * order.block)
        before = jax.lax.cummax(jnp.where(kept, slot, -far), axis=3)
        after = jax.lax.cummin(jnp.where(kept, slot, far), axis=3, reverse=True)
        rank = jnp.cumsum(kept, -1, dtype=np.int32) - 1  # of the last kept one
        nearest = jnp.where(slot - before <= after - slot, rank, rank + 1)
        listed = jnp.sort(jnp.where(kept, slot, order.block - 1), axis=-1)
        return standing_in(listed[..., :most], counts, nearest, order, most, ctx, by_tile=True)


METHODS = (
    Method(
        name="fastvideo-bsa",
        title="BSA (FastVideo)",
        source="FastVideo, bsa_attn.py: its defaults, which name no dense steps",
        pattern=lambda grid, num_heads, layer: FastVideoBSA(),
        trained=True,
    ),
)
