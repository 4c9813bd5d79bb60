"""SVG2: attention between clusters of like queries and keys (Sparse VideoGen2, arXiv 2505.18875)."""

import dataclasses

import jax

from sparsevdit_jax.block_rules import keep_share
from sparsevdit_jax.clustered_pattern import ClusteredPattern, authors_setting, first_layers
from sparsevdit_jax.clusters import Clusters, cluster_mask, cluster_order
from sparsevdit_jax.context import StepContext
from sparsevdit_jax.method import Method, warm_up
from sparsevdit_jax.pattern import AttentionPlan


@dataclasses.dataclass(frozen=True)
class SVG2(ClusteredPattern):
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
    """

    def plan(self, q, k, state, ctx):
        """The clusters of this step's q and k, and which of them meet."""
        q_clusters, k_clusters, state = self.cluster(q, k, state, ctx)
        return self.choose(q_clusters, k_clusters, ctx), state

    def keep_clusters(self, q: Clusters, k: Clusters, ctx: StepContext) -> jax.Array:
        """Which pairs of clusters meet: bool [B, H, Cq, Ck]."""
        least = int(self.min_kc_ratio * k.sizes.shape[-1])
        return keep_share(self.mass(q, k, ctx), self.top_p, crossing=True, least=least)

    def choose(self, q: Clusters, k: Clusters, ctx: StepContext) -> AttentionPlan:
        """The plan of given clusters."""
        keep = self.keep_clusters(q, k, ctx)
        q_order, q_owner = cluster_order(q, self.block_q, ctx)
        k_order, k_owner = cluster_order(k, self.block_kv, ctx)
        mask = cluster_mask(keep, q_owner, k_owner, block_q=self.block_q, block_kv=self.block_kv)
        return AttentionPlan(mask, q_order, k_order)


METHODS = (
    Method(
        name="svg2",
        title="SVG2",
        source="svg-project/Sparse-VideoGen, scripts of Wan 2.1 text to video (image to video: 0.35 dense)",
        pattern=lambda grid, num_heads, layer: SVG2(**authors_setting(grid)),
        schedule=warm_up(0.2),
        dense_layers=first_layers,
        models={
            "hunyuanvideo": dict(
                source="svg-project/Sparse-VideoGen, scripts of HunyuanVideo",
                pattern=lambda grid, num_heads, layer: SVG2(
                    **authors_setting(grid, 400), zero_step_init=True
                ),
                schedule=warm_up(0.1),
            )
        },
    ),
)
