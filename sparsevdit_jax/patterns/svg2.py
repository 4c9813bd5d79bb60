"""SVG2: attention between clusters of like queries and keys (Sparse VideoGen2, arXiv 2505.18875)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels._pytree import pytree
from pallas_kernels._values import flag, share, whole
from sparsevdit_jax.block_rules import keep_share
from sparsevdit_jax.clusters import (
    Clusters,
    cluster_mask,
    cluster_order,
    drawn_tokens,
    k_means,
)
from sparsevdit_jax.context import StepContext
from sparsevdit_jax.method import Method, warm_up
from sparsevdit_jax.pattern import AttentionPattern, AttentionPlan
from sparsevdit_jax.schedule import Phase


@pytree
class Svg2State:
    """Where the next step's k-means begins, for each batch row and head.

    Attributes:
      q: f32 [B, H, Cq, D], centroids of the queries.
      k: f32 [B, H, Ck, D], of the keys.
      warm: bool [B, H], whether there has been a step.
    """

    q: jax.Array
    k: jax.Array
    warm: jax.Array


@dataclasses.dataclass(frozen=True)
class Svg2(AttentionPattern):
    """Queries and keys are clustered apart, and a cluster of queries reads the clusters of most mass.

    Each head and row runs k-means on its video queries and on its video keys, from random tokens at
    first and from the last step's centroids later. The mass of a pair of clusters is estimated as the
    softmax of the centroids' logits, weighted by the number of keys, and a row keeps the largest
    until their sum passes `top_p`. Tokens are laid out by cluster, queries in one order and keys in
    another, and every cluster begins a block. Text is kept, as rows and as columns; padding of the
    text is seen by nothing and gives 0.

    Source: svg-project/Sparse-VideoGen, svg/kmeans_utils.py and svg/models/*/attention.py. Differs
    from it: a head's k-means does not wait for other heads, all heads start from the same drawn
    tokens, and any batch will do.

    Clusters change the order of the tokens in every step and head, so there is no mask to draw.
    Blocks of 16 waste less than blocks of 64, which the kernels for Hopper ask for.

    State for Wan 14B (40 heads of 128): 27 MB of centroids for each layer and row. Lists for 75,600
    tokens in blocks of 64: 13 MB for each head.

    Attributes:
      q_clusters: clusters of the queries; no more than there are video tokens are used.
      k_clusters: clusters of the keys.
      top_p: share of the estimated mass that a row of clusters keeps.
      min_kc_ratio: share of the key clusters, rounded down, that a row keeps at least.
      first_iterations: most iterations of k-means in the first step.
      iterations: in a later step.
      zero_step_init: dense steps move the centroids, too, so that they are warm when sparse steps
        begin.
      block_q: tokens in a block of queries.
      block_kv: tokens in a block of keys.
      seed: of the drawn tokens.
    """

    q_clusters: int = 300
    k_clusters: int = 1000
    top_p: float = 0.9
    min_kc_ratio: float = 0.1
    first_iterations: int = 50
    iterations: int = 2
    zero_step_init: bool = False
    block_q: int = 64
    block_kv: int = 64
    seed: int = 0

    def __post_init__(self):
        counted = ("q_clusters", "k_clusters", "first_iterations", "iterations")
        checked: dict = {name: whole(name, getattr(self, name), 1) for name in counted}
        for name in ("block_q", "block_kv"):
            checked[name] = whole(name, getattr(self, name), 1, remedy="it counts tokens")
        checked["seed"] = whole("seed", self.seed)
        checked["top_p"] = share("top_p", self.top_p, remedy="kept mass / all mass of a row")
        checked["min_kc_ratio"] = share("min_kc_ratio", self.min_kc_ratio, zero=True)
        checked["zero_step_init"] = flag("zero_step_init", self.zero_step_init)
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def sees_dense_steps(self) -> bool:  # pyrefly: ignore
        """Whether dense steps move the centroids."""
        return self.zero_step_init

    def init(self, grid, *, batch, num_heads, head_dim):
        """No centroids yet."""

        def none(clusters):
            return jnp.zeros((batch, num_heads, clusters, head_dim), np.float32)

        counts = self._counts(grid)
        return Svg2State(*map(none, counts), jnp.zeros((batch, num_heads), bool))

    def plan(self, q, k, state, ctx):
        """The clusters of this step's q and k, and which of them meet."""
        q_clusters, k_clusters, state = self.cluster(q, k, state, ctx)
        return self.choose(q_clusters, k_clusters, ctx), state

    def update(self, q, k, lse, state, ctx):
        """After a dense step, which calls this only with `zero_step_init`: its centroids."""
        del lse
        return self.cluster(q, k, state, ctx)[-1] if ctx.phase is Phase.DENSE else state

    def cluster(self, q, k, state, ctx: StepContext) -> tuple[Clusters, Clusters, Svg2State]:
        """(clusters of the queries, of the keys, state): a step of k-means on q, k [B, L, H, D]."""
        start, count = ctx.grid.video_start, ctx.grid.num_video_tokens
        limit = jnp.where(state.warm, np.int32(self.iterations), np.int32(self.first_iterations))
        found = []
        for place, (x, old) in enumerate(((q, state.q), (k, state.k))):
            x = jax.lax.slice_in_dim(x, start, start + count, axis=1)
            drawn = drawn_tokens(old.shape[2], count, 2 * self.seed + place)
            drawn = jnp.take(x, drawn, axis=1).swapaxes(1, 2).astype(np.float32)
            found.append(k_means(x, jnp.where(state.warm[..., None, None], old, drawn), limit))
        q_found, k_found = found
        state = Svg2State(q_found.centroids, k_found.centroids, jnp.ones_like(state.warm))
        return q_found, k_found, state

    def keep_clusters(self, q: Clusters, k: Clusters, ctx: StepContext) -> jax.Array:
        """Which pairs of clusters meet: bool [B, H, Cq, Ck]."""
        logits = jnp.einsum("bhid,bhjd->bhij", q.centroids, k.centroids)
        scale = q.centroids.shape[-1] ** -0.5 if ctx.kernel.scale is None else ctx.kernel.scale
        # Empty clusters have weight 0. Every row of clusters has a token, so one at least is not.
        mass = jax.nn.softmax(
            logits * np.float32(scale) + jnp.log(k.sizes[:, :, None].astype(np.float32)), axis=-1
        )
        least = int(self.min_kc_ratio * k.sizes.shape[-1])
        return keep_share(jax.lax.stop_gradient(mass), self.top_p, crossing=True, least=least)

    def choose(self, q: Clusters, k: Clusters, ctx: StepContext) -> AttentionPlan:
        """The plan of given clusters."""
        keep = self.keep_clusters(q, k, ctx)
        q_order, q_owner = cluster_order(q, self.block_q, ctx)
        k_order, k_owner = cluster_order(k, self.block_kv, ctx)
        mask = cluster_mask(keep, q_owner, k_owner, block_q=self.block_q, block_kv=self.block_kv)
        return AttentionPlan(mask, q_order, k_order)

    def _counts(self, grid):
        return tuple(min(n, grid.num_video_tokens) for n in (self.q_clusters, self.k_clusters))


def svg2_for(grid, q_clusters: int = 300, **fields) -> Svg2:
    """The authors' setting. Canvases far smaller than theirs have as few clusters as keep 64 queries
    and 16 keys in each, and smaller blocks.
    """
    tokens = grid.num_video_tokens
    block = 64 if tokens >= 1 << 14 else 16
    return Svg2(
        min(q_clusters, -(-tokens // 64)),
        min(1000, -(-tokens // 16)),
        block_q=block,
        block_kv=block,
        **fields,
    )


def first_layers(num_layers: int) -> tuple[int, ...]:
    """The first 3 % of the layers, rounded down: 1 of 40 or 60."""
    return tuple(range(3 * num_layers // 100))


METHODS = (
    Method(
        name="svg2",
        title="SVG2",
        source="svg-project/Sparse-VideoGen, scripts of Wan 2.1 text to video (image to video: 0.35 dense)",
        pattern=lambda grid, num_heads, layer: svg2_for(grid),
        schedule=warm_up(0.2),
        dense_layers=first_layers,
        models={
            "hunyuanvideo": dict(
                source="svg-project/Sparse-VideoGen, scripts of HunyuanVideo",
                pattern=lambda grid, num_heads, layer: svg2_for(grid, 400, zero_step_init=True),
                schedule=warm_up(0.1),
            )
        },
    ),
)
