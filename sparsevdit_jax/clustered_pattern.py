"""ClusteredPattern: the base of patterns between clusters of queries and clusters of keys."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels._pytree import pytree
from pallas_kernels._values import flag, share, whole
from sparsevdit_jax.clusters import Clusters, drawn_tokens, k_means
from sparsevdit_jax.context import StepContext
from sparsevdit_jax.grid import VideoGrid
from sparsevdit_jax.pattern import AttentionPattern
from sparsevdit_jax.schedule import Phase


@pytree
class CentroidState:
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
class ClusteredPattern(AttentionPattern):
    """Clusters of the video queries and of the video keys of each head and row, anew in every step.

    k-means begins with random tokens in the first step and with the last step's centroids later. A
    subclass says which clusters meet.

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
        return CentroidState(*map(none, counts), jnp.zeros((batch, num_heads), bool))

    def update(self, q, k, lse, state, ctx):
        """After a dense step, which calls this only with `zero_step_init`: its centroids."""
        del lse
        return self.cluster(q, k, state, ctx)[-1] if ctx.phase is Phase.DENSE else state

    def cluster(self, q, k, state, ctx: StepContext) -> tuple[Clusters, Clusters, CentroidState]:
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
        state = CentroidState(q_found.centroids, k_found.centroids, jnp.ones_like(state.warm))
        return q_found, k_found, state

    def mass(self, q: Clusters, k: Clusters, ctx: StepContext) -> jax.Array:
        """Estimated mass of each pair of clusters, f32 [B, H, Cq, Ck]; rows sum to 1.

        A key cluster counts with its size, and one without tokens has none.
        """
        logits = jnp.einsum("bhid,bhjd->bhij", q.centroids, k.centroids)
        logits = jax.lax.stop_gradient(logits) * logit_scale(q, ctx)
        return jax.nn.softmax(logits + jnp.log(k.sizes[:, :, None].astype(np.float32)), axis=-1)

    def _counts(self, grid):
        return tuple(min(n, grid.num_video_tokens) for n in (self.q_clusters, self.k_clusters))


def logit_scale(clusters: Clusters, ctx: StepContext) -> np.float32:
    """The factor on logits of centroids."""
    scale = ctx.kernel.scale
    return np.float32(clusters.centroids.shape[-1] ** -0.5 if scale is None else scale)


def authors_setting(grid: VideoGrid, q_clusters: int = 300) -> dict:
    """Numbers of clusters, 300 (or others) and 1000, and blocks of 64.

    Latent grids far smaller than the authors' get fewer clusters, of at least 64 queries or 16 keys
    each, and smaller blocks.
    """
    tokens = grid.num_video_tokens
    block = 64 if tokens >= 1 << 14 else 16
    return dict(
        q_clusters=min(q_clusters, -(-tokens // 64)),
        k_clusters=min(1000, -(-tokens // 16)),
        block_q=block,
        block_kv=block,
    )


def first_layers(num_layers: int) -> tuple[int, ...]:
    """The first 3 % of the layers, rounded down, which the authors keep dense: 1 of 40 or 60."""
    return tuple(range(3 * num_layers // 100))
