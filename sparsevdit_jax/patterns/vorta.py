"""VORTA's coreset, and the router that picks an expert for each head (arXiv 2505.18809)."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32

from pallas_kernels import BlockMask
from pallas_kernels._values import share, whole
from sparsevdit_jax.coreset import least_alike, likeness, standing_in
from sparsevdit_jax.method import Method
from sparsevdit_jax.pattern import AttentionPattern, AttentionPlan
from sparsevdit_jax.token_order import TokenOrder, check_tile

EXPERTS = ("full", "coreset", "sliding tile")
"""What a router chooses between, in the order of its scores."""


@dataclasses.dataclass(frozen=True)
class Coreset(AttentionPattern):
    """Of each small bucket of tokens the centre and those least like it attend to one another.

    Buckets are boxes of the video. The centre stays, and of n tokens ``int(n (1 - rate)) - 1`` others:
    those whose queries have the smallest cosine to the centre's. Queries, keys and values of all
    others are left out, and they take the centre's result (so the centre's gradient collects theirs).
    What stays attends to all that stays. Text is kept, as queries and as keys.

    Source: wenhao728/VORTA, vorta/attention/coreset_select.py and wan.py; it is the query's likeness
    that decides about keys, too. Differs: a bucket that sticks out of the video has fewer tokens and
    keeps the same share of them, its centre at least, which is the middle of what there is; the
    authors' buckets must divide the latent grid.

    Density counts pairs of kept tokens over all pairs.

    Attributes:
      bucket: frames, rows and columns of a bucket, in tokens.
      rate: share of the tokens that is left out.
      block: tokens in a block of those that stay; it changes only how kernels walk.
    """

    bucket: tuple[int, int, int] = (2, 3, 2)
    rate: float = 0.5
    block: int = 128

    def __post_init__(self):
        object.__setattr__(self, "bucket", check_tile(self.bucket))
        rate = share("rate", self.rate, zero=True, remedy="left out / all tokens of a bucket")
        object.__setattr__(self, "rate", rate)
        block = whole("block", self.block, 1, remedy="it counts tokens")
        object.__setattr__(self, "block", block)

    def plan(self, q, k, state, ctx):
        """All pairs of the tokens that stay."""
        del k
        buckets = self.buckets(ctx.grid)
        counts = self.kept_tokens(buckets)
        ranked = least_alike(self.likeness(q, buckets))
        rank = jnp.argsort(ranked, axis=-1).astype(np.int32)
        stand_in = jnp.where(rank < counts[None, None, :, None], rank, 0)  # the centre is first
        kept = ranked[..., : int(counts.max())]
        order = standing_in(kept, counts, stand_in, buckets, self.block, ctx)
        blocks = order.lengths.shape[-1]
        full = BlockMask.full(blocks, blocks, block_q=self.block, block_kv=self.block)
        return AttentionPlan(full, order), state

    def buckets(self, grid) -> TokenOrder:
        """Bucket order."""
        return TokenOrder(grid, math.prod(self.bucket), self.bucket)

    def kept_tokens(self, buckets: TokenOrder) -> np.ndarray:
        """Tokens of each bucket that stay, int32 [T]."""
        kept = np.floor(buckets.video_lengths * (1 - self.rate)).astype(np.int32)
        return np.maximum(kept, 1)

    def likeness(self, q, buckets: TokenOrder) -> jax.Array:
        """Cosine of each query to its bucket's centre, f32 [B, H, T, bucket]; -inf for the centre."""
        centre = _centres(buckets)
        alike = likeness(q, buckets, centre)
        is_centre = np.arange(buckets.block)[None] == centre[:, None]
        return jnp.where(is_centre[None, None], -np.inf, alike)


def router_scores(
    embedding: Float[Array, "B D"], weight: Float[Array, "3H D"], bias: Float[Array, " 3H"]
) -> Float32[Array, "B H 3"]:
    """softmax(weight SiLU(embedding) + bias) for each head, over `EXPERTS`.

    Args:
      embedding: of the timestep.
      weight: of the layer's router, three rows for each head.
      bias: as the weight.
    """
    embedding, weight, bias = (x.astype(np.float32) for x in (embedding, weight, bias))
    logits = jax.nn.silu(embedding) @ weight.T + bias[None]
    return jax.nn.softmax(logits.reshape(len(embedding), -1, len(EXPERTS)), axis=-1)


def router_experts(scores: Float[Array, "B H 3"], threshold: float = 0.3) -> Int32[Array, " H"]:
    """The expert of each head: the best of row 0, which decides for all rows; full where its score is
    below `threshold`.
    """
    best = jnp.argmax(scores[0], axis=-1).astype(np.int32)
    return jnp.where(scores[0].max(-1) < threshold, np.int32(0), best)


def _centres(buckets: TokenOrder) -> np.ndarray:
    """Slot of the middle token of each bucket, int [T]; of what there is in one that sticks out."""
    sizes = (
        np.minimum(n - np.arange(0, n, b), b)
        for n, b in zip(buckets.grid.shape, buckets.tile or (), strict=True)
    )
    t, y, x = np.meshgrid(*sizes, indexing="ij")
    return ((t // 2 * y + y // 2) * x + x // 2).reshape(-1)


METHODS = (
    Method(
        name="vorta-coreset",
        title="VORTA's coreset",
        source="wenhao728/VORTA: its coreset in all heads; its routers are trained and not part of this",
        pattern=lambda grid, num_heads, layer: Coreset(),
    ),
)
