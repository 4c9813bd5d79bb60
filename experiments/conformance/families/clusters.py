"""Attention between clusters of tokens: SVG2 and SVG-EAR."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.conformance.check import close, same, softmax_roundings
from sparsevdit_jax import StepContext, VideoGrid
from sparsevdit_jax.clusters import Clusters, cluster_order
from sparsevdit_jax.patterns import SVG2, SVGEAR


def _raster(vectors, name):
    """An array [B, H, S, D] of a file as [B, S, H, D]."""
    return jnp.asarray(np.moveaxis(vectors[name], 1, 2), np.float32)


def svg2(vectors):
    """Pairs of clusters, density, out and lse, from the labels and centroids that the file gives.

    Its centroids are not the means of its labels, so k-means is not part of it.
    """
    q, k, v = (_raster(vectors, name) for name in "qkv")
    pair = [_given(vectors, name) for name in "qk"]
    pattern = SVG2(
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


def svg_ear(vectors):
    """Budget map, budget, efficiency, clusters that are read, and out, from the labels of the file."""
    q, k, v = (_raster(vectors, name) for name in "qkv")
    labels = [jnp.asarray(vectors[f"{name}_label"], np.int32)[None] for name in "qk"]
    counts = vectors["cluster_mask"].shape[2:]
    pattern = SVGEAR(
        *counts,
        float(vectors["top_p"]),
        float(vectors["min_kc_ratio"]),
        gamma=float(vectors["gamma"]),
        block_q=16,
        block_kv=16,
    )
    ctx = StepContext(VideoGrid(*(int(n) for n in vectors["grid"])))

    @jax.jit
    def run(q, k, v):
        pair = [Clusters.of(x, a, n) for x, a, n in zip((q, k), labels, counts, strict=True)]
        mass = pattern.mass(*pair, ctx)
        order, owner = cluster_order(pair[1], 16, ctx)
        worth = pattern.efficiency(*pair, order.apply(k), order.apply(v), order, owner, ctx)
        keep, budget = pattern.route(mass, worth, pair[1])
        out, _ = pattern.attend(q, k, v, *pair, ctx)
        return mass, budget * pair[0].sizes.astype(np.float32), worth, keep, out

    mass, budget, worth, keep, out = run(q, k, v)
    roundings = softmax_roundings(vectors["q"], vectors["k"])
    yield close("budget map", mass, vectors["budget_probs"], roundings)
    yield close("budget", budget, vectors["budget"], 2)
    # Of clusters that are read in any case the file has a number that stands for none.
    asked = vectors["efficiency"] > -1e9
    yield close("efficiency", np.asarray(worth)[asked], vectors["efficiency"][asked], roundings)
    yield same("clusters that are read", keep, vectors["cluster_mask"])
    yield close("out", np.moveaxis(out, 1, 2), vectors["out"], roundings)


FAMILIES = {"svg2_": svg2, "svg_ear": svg_ear}
