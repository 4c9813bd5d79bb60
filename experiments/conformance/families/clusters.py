"""Attention between clusters of tokens: SVG2."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.conformance.check import close, same, softmax_roundings
from sparsevdit_jax import StepContext, VideoGrid
from sparsevdit_jax.clusters import Clusters
from sparsevdit_jax.patterns import Svg2


def _raster(vectors, name):
    """An array [B, H, S, D] of a file as [B, S, H, D]."""
    return jnp.asarray(np.moveaxis(vectors[name], 1, 2), np.float32)


def svg2(vectors):
    """Pairs of clusters, density, out and lse, from the labels and centroids that the file gives.

    Its centroids are not the means of its labels, so k-means is not part of it.
    """
    q, k, v = (_raster(vectors, name) for name in "qkv")
    pair = [_given(vectors, name) for name in "qk"]
    pattern = Svg2(
        *(x.sizes.shape[-1] for x in pair),
        top_p=float(vectors["top_p"]),
        min_kc_ratio=float(vectors["min_kc_ratio"]),
        block_q=16,
        block_kv=16,
    )
    ctx = StepContext(VideoGrid(1, 1, q.shape[1]))

    @jax.jit
    def run(q, k, v, pair):
        plan = pattern.choose(*pair, ctx)
        return pattern.keep_clusters(*pair, ctx), plan.attend(q, k, v, ctx), plan

    keep, (out, lse), plan = run(q, k, v, pair)
    yield same("dynamic map", keep, vectors["dynamic_map"])
    lengths = (plan.q_order.lengths, plan.kv_order.lengths)
    pairs = np.einsum("bhij,bhi,bhj->bh", plan.mask.to_dense(), *lengths)
    yield close("density of the plan", pairs / q.shape[1] ** 2, vectors["density"], 3)
    roundings = softmax_roundings(vectors["q"], vectors["k"])
    yield close("out", np.moveaxis(out, 1, 2), vectors["out"], roundings)
    yield close("lse", lse, vectors["lse"], roundings)


def _given(vectors, name):
    """The clusters of the queries ("q") or keys ("k") of a file."""
    parts = (("labels", np.int32), ("centroids", np.float32), ("sizes", np.int32))
    return Clusters(*(jnp.asarray(vectors[f"{name}_{part}"], dtype) for part, dtype in parts))


FAMILIES = {"svg2_": svg2}
