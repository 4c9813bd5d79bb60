"""SVGEAR: clusters chosen by what leaving them out would cost, and the others by their means
(SVG-EAR, arXiv 2603.08982).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32

from sparsevdit_jax import ops
from sparsevdit_jax.block_rules import keep_share, keep_top
from sparsevdit_jax.centroids import attend_centroids
from sparsevdit_jax.clustered_pattern import (
    ClusteredPattern,
    authors_setting,
    first_layers,
    logit_scale,
)
from sparsevdit_jax.clusters import Clusters, cluster_mask, cluster_means, cluster_order
from sparsevdit_jax.context import StepContext
from sparsevdit_jax.merge import merge_by_lse
from sparsevdit_jax.method import Method, warm_up
from sparsevdit_jax.pattern import Attended, AttentionPlan
from sparsevdit_jax.schedule import Phase

_EPSILON = 1e-6  # added to sizes under the logarithm
_LEAST_ERROR = 1e-8
_STEEPEST = 40.0  # exp of a logit above its centroid's stays finite, squared, in float32


@dataclasses.dataclass(frozen=True)
class SVGEAR(ClusteredPattern):
    """Queries read the keys of some clusters one by one, and of every other cluster its mean key.

    Clusters are those of `SVG2`, and so is the budget of a row: as many keys as the clusters have that
    hold `top_p` of the estimated mass, and at least twice ``int(min_kc_ratio * k_clusters)`` of the
    heaviest. Half as many are read in any case. The rest of the budget goes to the clusters whose mean
    would err most for each pair of tokens: for the centroid c of the queries the error of cluster j is
    the sum over its keys of |exp(c . k) v - exp(c . mean k) mean v|^2, and a row takes the clusters of
    largest ``log error - gamma log pairs``, down to the one with which the budget ends. A cluster that
    is not read enters the softmax as one key, its mean, with logit + log(size + 1e-6) and the mean
    value. Text is read, as rows and as columns.

    Source: Sparse-VideoGen's branch ear-wan22-support, as the package sparsevideo 0.1.0 has it. It
    ranks by error for each pair, not by error. Differs: as in `SVG2`; a cluster without keys costs
    nothing and never counts; logarithms of errors are taken about the centroid's logit, so that none
    overflows.

    What the patterns here call density counts the pairs that are read one by one. Memory: one head at
    a time has [q_clusters, tokens] numbers.

    Attributes:
      gamma: weight of the number of pairs.
    """

    gamma: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.gamma, bool) or not isinstance(self.gamma, int | float | np.number):
            raise ValueError(f"gamma={self.gamma!r} must be a number; 0 ranks by error alone")
        object.__setattr__(self, "gamma", float(self.gamma))

    def compute(self, q, k, v, state, ctx):
        """As for any pattern, and what is left out by its means."""
        if ctx.phase is Phase.DENSE:
            return super().compute(q, k, v, state, ctx)
        q_clusters, k_clusters, state = self.cluster(q, k, state, ctx)
        out, lse = self.attend(q, k, v, q_clusters, k_clusters, ctx)
        return Attended(out, lse, state)

    def attend(self, q, k, v, q_clusters: Clusters, k_clusters: Clusters, ctx: StepContext):
        """(out [B, L, H, D], lse f32 [B, H, L]) of raster q, k, v, with given clusters."""
        plan, of_q, of_k, keep = self._plan(k, v, q_clusters, k_clusters, ctx)
        (q_order, q_owner), (k_order, k_owner) = of_q, of_k
        left_out = jnp.pad(~keep, ((0, 0), (0, 0), (0, 2), (0, 0)))  # text and unused blocks: none
        mean_key, mean_value = (
            cluster_means(k_order.apply(x), k_owner, k_clusters) for x in (k, v)
        )
        rest, rest_lse = attend_centroids(
            q_order.apply(q),
            mean_key,
            mean_value,
            k_clusters.sizes,
            jnp.take_along_axis(left_out, q_owner[..., None], axis=2),
            block_q=self.block_q,
            scale=ctx.kernel.scale,
            epsilon=_EPSILON,
        )
        rest = q_order.undo(rest), q_order.undo(rest_lse, axis=2)
        out, lse = merge_by_lse([plan.attend(q, k, v, ctx), rest])
        return out.astype(q.dtype), lse

    def density_on(self, grid, num_heads, *, state=None, step=0, text_lengths=None):
        """Pairs that are read one by one, of random q, k and v."""
        ctx = StepContext(grid, Phase.REUSE, step, text_lengths)
        batch = 1 if ctx.text_lengths is None else len(ctx.text_lengths)
        q, k, v = jax.random.normal(jax.random.key(0), (3, batch, grid.num_tokens, num_heads, 8))
        if state is None:
            state = self.init(grid, batch=batch, num_heads=num_heads, head_dim=8)
        return self.density_of(q, k, v, state, ctx)

    def density_of(self, q, k, v, state, ctx: StepContext) -> np.ndarray:
        """The same of given q, k, v [B, L, H, D]: f32 [H]."""
        made = _planned(self, q, k, v, state, ctx)
        return ops.density(made.mask, made.q_order, made.kv_order, ctx)

    def route(
        self, mass: Float[Array, "B H Cq Ck"], efficiency: Float[Array, "B H Cq Ck"], k: Clusters
    ) -> tuple[Bool[Array, "B H Cq Ck"], Float32[Array, "B H Cq"]]:
        """(clusters that each row reads, keys in its budget), from what each is worth."""
        count = k.sizes.shape[-1]
        sizes = jnp.broadcast_to(k.sizes[:, :, None], mass.shape)
        half = max(1, int(self.min_kc_ratio * count)) if self.min_kc_ratio else 0
        twice = max(1, int(self.min_kc_ratio * count * 2)) if self.min_kc_ratio else 0
        wanted = keep_share(mass, self.top_p, crossing=True, least=twice)
        budget = jnp.where(wanted, sizes, 0).sum(-1)
        sure = keep_top(mass, half)
        rest = budget - jnp.where(sure, sizes, 0).sum(-1)
        order = jnp.argsort(-jnp.where(sure, -jnp.inf, efficiency), axis=-1, stable=True)
        ranked = jnp.take_along_axis(jnp.where(sure, 0, sizes), order, axis=-1)
        taken = jnp.cumsum(ranked, axis=-1) - ranked < rest[..., None]
        taken = jnp.take_along_axis(taken, jnp.argsort(order, axis=-1), axis=-1)
        return sure | taken, budget.astype(np.float32)

    def efficiency(self, q: Clusters, k: Clusters, keys, values, order, owner, ctx: StepContext):
        """log error - gamma log pairs of each pair of clusters, f32 [B, H, Cq, Ck].

        Args:
          q: clusters of the queries.
          k: of the keys.
          keys: [B, S, H, D] in the order of `order`.
          values: as the keys.
          order: of the keys, from `cluster_order`.
          owner: int32 [B, H, N], from there.
          ctx: the step.
        """
        keys, values = jax.lax.stop_gradient((keys, values))
        mean = cluster_means(values, owner, k).swapaxes(1, 2)
        keys, values = keys.swapaxes(1, 2), values.swapaxes(1, 2)
        of_heads = q.centroids, k.centroids, keys, values, mean, owner, order.lengths
        batch, heads = owner.shape[:2]
        scale = logit_scale(q, ctx)
        flat = tuple(x.reshape(batch * heads, *x.shape[2:]) for x in of_heads)
        error = jax.lax.map(lambda one: _log_errors(*one, scale=scale), flat)
        error = error.reshape(batch, heads, *error.shape[1:])
        pairs = q.sizes[..., None].astype(np.float32) * k.sizes[:, :, None].astype(np.float32)
        worth = jnp.maximum(error, np.float32(np.log(_LEAST_ERROR)))
        worth = worth - np.float32(self.gamma) * jnp.log(jnp.maximum(pairs, 1))
        return jnp.where(pairs > 0, worth, -jnp.inf)

    def _plan(self, k, v, q_clusters, k_clusters, ctx):
        """(plan, order and owners of the queries, of the keys, clusters that meet)."""
        q_order, q_owner = cluster_order(q_clusters, self.block_q, ctx)
        k_order, k_owner = cluster_order(k_clusters, self.block_kv, ctx)
        moved = k_order.apply(k), k_order.apply(v)
        worth = self.efficiency(q_clusters, k_clusters, *moved, k_order, k_owner, ctx)
        keep, _ = self.route(self.mass(q_clusters, k_clusters, ctx), worth, k_clusters)
        mask = cluster_mask(keep, q_owner, k_owner, block_q=self.block_q, block_kv=self.block_kv)
        plan = AttentionPlan(mask, q_order, k_order)
        return plan, (q_order, q_owner), (k_order, k_owner), keep


@functools.partial(jax.jit, static_argnums=0)
def _planned(pattern: SVGEAR, q, k, v, state, ctx) -> AttentionPlan:
    """The plan of a step."""
    q_clusters, k_clusters, _ = pattern.cluster(q, k, state, ctx)
    return pattern._plan(k, v, q_clusters, k_clusters, ctx)[0]


def _log_errors(queries, mean_keys, keys, values, mean_values, owner, lengths, *, scale):
    """log of the sum over a cluster's keys of |exp(a) v - exp(m) v'|^2, f32 [Cq, Ck] of one head.

    With a = query . key, m = query . mean key and v' the mean value that is
    exp(2 m) |(exp(a - m) - 1) v + (v - v')|^2, whose square is a sum of three numbers of a key.
    """
    count, (blocks,) = mean_keys.shape[0], owner.shape
    keys, values = keys.astype(np.float32), values.astype(np.float32)
    block = keys.shape[0] // blocks
    of_key = jnp.minimum(jnp.repeat(owner, block), count - 1)  # text is of no cluster: see `member`
    off = values - mean_values[of_key]
    squares, cross, spread = (
        (x * y).sum(-1)[None] for x, y in ((values,) * 2, (values, off), (off,) * 2)
    )
    means = queries @ mean_keys.T * scale
    grown = jnp.expm1(jnp.minimum(queries @ keys.T * scale - means[:, of_key], _STEEPEST))
    error = jnp.maximum(grown**2 * squares + 2 * grown * cross + spread, 0)
    real = np.arange(block, dtype=np.int32)[None] < lengths[:, None]
    error = jnp.where(real[None], error.reshape(-1, blocks, block), 0).sum(-1)
    member = owner[:, None] == np.arange(count, dtype=np.int32)[None]
    error = jnp.dot(error, member.astype(np.float32), precision=jax.lax.Precision.HIGHEST)
    return 2 * means + jnp.log(error)


METHODS = (
    Method(
        name="svg-ear",
        title="SVG-EAR",
        source="sparsevideo 0.1.0 and Sparse-VideoGen's branch ear-wan22-support: defaults",
        pattern=lambda grid, num_heads, layer: SVGEAR(**authors_setting(grid)),
        schedule=warm_up(0.1),
        dense_layers=first_layers,
        models={
            "hunyuanvideo": dict(
                pattern=lambda grid, num_heads, layer: SVGEAR(
                    **authors_setting(grid, 400), zero_step_init=True
                )
            )
        },
    ),
)
