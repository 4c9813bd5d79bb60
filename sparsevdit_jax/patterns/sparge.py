"""SpargeAttn: blocks by pooled scores, of those whose tokens are alike (arXiv 2502.18137)."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels import BlockMask
from pallas_kernels._checks import resolve_scale
from pallas_kernels._values import flag, share, whole
from sparsevdit_jax.block_rules import keep_share, keep_top
from sparsevdit_jax.grid import VideoGrid
from sparsevdit_jax.method import Method
from sparsevdit_jax.pattern import AttentionPattern, AttentionPlan
from sparsevdit_jax.selection import round_down, row_budget
from sparsevdit_jax.token_order import TokenOrder


@dataclasses.dataclass(frozen=True)
class SpargeAttn(AttentionPattern):
    """A mean stands for a block only where the block's tokens are alike; others are always read.

    A block is alike where the mean cosine of its pairs of tokens (each with itself too) is above
    `similarity`. Softmaxed products of mean queries and mean keys rank the alike key blocks of a row;
    it keeps a share of all blocks by number (`density`), or the heaviest while their weights sum to at
    most `mass`, one at least. Key blocks that are not alike are kept by every row, and rows of queries
    that are not keep everything. A block that is not full never counts as alike (in the authors' code
    the padding's norm is 0). Blocks of queries and keys differ in size.

    Follows thu-ml/SpargeAttn's block map (`get_block_map_meansim`), whose recommended call ranks by
    number; the paper's is `SpargeAttn(density=None, mass=0.9, similarity=0.1)`. Differs: text is kept
    besides (theirs is a block as any other), means and scores are float32 where theirs have the dtype
    of q, and q and k are not quantised. The second stage, which skips products with v by their logits,
    is `AttentionPlan.skip_below`, and not used here.

    Attributes:
      density: video key blocks that a row keeps by rank / all of them, rounded down; None: by `mass`.
      mass: share of a row's pooled attention; None: by `density`. One of both is given.
      similarity: mean cosine above which a block's tokens are alike, from -1 (all full blocks are).
      block_q: queries in a block (the sm90 kernel has 64 by 128).
      block_kv: keys in a block.
      sink: every row keeps the first key block.
      path: walk in which tokens are packed (`TokenOrder.path`; the paper's is a Hilbert curve,
        "gilbert"). None: raster order, as the API takes them.
    """

    density: float | None = 0.5
    mass: float | None = None
    similarity: float = -0.1
    block_q: int = 128
    block_kv: int = 64
    sink: bool = False
    path: str | None = None

    def __post_init__(self):
        if (self.density is None) == (self.mass is None):
            raise ValueError(
                f"density={self.density!r} and mass={self.mass!r}: give one of them and None for the "
                "other"
            )
        checked: dict[str, Any] = dict(sink=flag("sink", self.sink))
        for name in ("density", "mass"):
            if getattr(self, name) is not None:
                checked[name] = share(name, getattr(self, name))
        for name in ("block_q", "block_kv"):
            checked[name] = whole(name, getattr(self, name), 1, remedy="it counts tokens")
        number = isinstance(self.similarity, int | float | np.integer | np.floating)
        if not number or isinstance(self.similarity, bool) or not -1 <= self.similarity <= 1:
            raise ValueError(f"similarity={self.similarity!r} must be a cosine, from -1 to 1")
        checked["similarity"] = float(self.similarity)
        TokenOrder(VideoGrid(1, 1, 1), 1, path=self.path)  # refuses what is no walk
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def takes_density(self) -> bool:  # pyrefly: ignore
        """Whether it keeps blocks by number."""
        return self.density is not None

    def orders(self, grid) -> tuple[TokenOrder, TokenOrder]:
        """Orders of queries and keys, text last."""
        q_order, kv_order = (
            TokenOrder(grid, n, path=self.path) for n in (self.block_q, self.block_kv)
        )
        return q_order, kv_order

    def plan(self, q, k, state, ctx):
        """The blocks of these q and k."""
        orders = self.orders(ctx.grid)
        keep = self.choose(*self.scores(q, k, ctx), ctx)
        text = [(0, order.num_text_blocks) for order in orders]
        keep = jnp.pad(keep, ((0, 0), (0, 0), *text), constant_values=True)
        mask = BlockMask.from_dense(keep, block_q=self.block_q, block_kv=self.block_kv)
        return AttentionPlan(mask, *orders), state

    def scores(self, q, k, ctx) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(scaled products of means f32 [B, H, M, N], which blocks of queries [B, H, M] and of keys
        [B, H, N] are alike) of the video blocks of q and k [B, L, H, D]. No gradient passes.
        """
        (q, alike_q), (k, alike_k) = (
            self._pooled(jax.lax.stop_gradient(x), order, ctx.text_lengths)
            for x, order in zip((q, k), self.orders(ctx.grid), strict=True)
        )
        scale = np.float32(resolve_scale(ctx.kernel.scale, q.shape[-1]))
        return jnp.einsum("bhid,bhjd->bhij", q, k, precision="highest") * scale, alike_q, alike_k

    def choose(self, scores, alike_q, alike_k, ctx, *, allowed=None) -> jax.Array:
        """Which pairs of video blocks are kept: bool [B, H, M, N].

        Args:
          scores: f32 [B, H, M, N], scaled products of means.
          alike_q: bool [B, H, M].
          alike_k: bool [B, H, N].
          ctx: the step.
          allowed: bool [M, N], pairs that may be kept; None: all. (The authors' causal mode.)
        """
        ranked = alike_k[:, :, None]
        if allowed is not None:
            ranked = ranked & allowed[None, None]
        top = jnp.max(scores, -1, keepdims=True, initial=-jnp.inf, where=ranked)
        weights = jnp.where(ranked, jnp.exp(jnp.where(ranked, scores - top, 0)), 0)
        weights = weights / jnp.maximum(weights.sum(-1, keepdims=True), 1)
        if self.density is None:
            keep = keep_share(weights, self.mass or 1.0, crossing=False, least=1)
        else:
            keep = keep_top(weights, self._count(scores.shape[-1], ctx))
        keep = keep | ~alike_k[:, :, None] | ~alike_q[..., None]
        if allowed is not None:
            keep = keep & allowed[None, None]
        return keep.at[..., 0].set(True) if self.sink else keep

    def _count(self, num_blocks, ctx):
        """Blocks that a row keeps by rank, from a product in float32, as the authors take it."""
        if ctx.density is None:
            return max(int(np.float32(self.density) * np.float32(num_blocks)), 1)
        return row_budget(self.density or 1.0, num_blocks, ctx, rounding=round_down)[0]

    def _pooled(self, x, order, text_lengths):
        """(means f32 [B, H, Nv, D], whether each video block's tokens are alike, bool [B, H, Nv])."""
        video = order.num_video_blocks
        size = jnp.linalg.norm(x.astype(np.float32), axis=-1, keepdims=True)
        unit = x.astype(np.float32) / jnp.maximum(size, math.sqrt(np.finfo(np.float32).tiny))
        mean, direction = (order.pool(y, text_lengths)[:, :video].swapaxes(1, 2) for y in (x, unit))
        # The mean product over all pairs of unit vectors is the square of their mean.
        alike = jnp.square(direction).sum(-1) > np.float32(self.similarity)
        return mean, alike & (order.video_lengths == order.block)[None, None]


METHODS = (
    Method(
        name="sparge",
        title="SpargeAttn",
        source="arXiv 2502.18137; thu-ml/SpargeAttn's top-k call: half of the blocks, similarity -0.1",
        pattern=lambda grid, num_heads, layer: SpargeAttn(),
    ),
)
