"""Sol-Attn: exact blocks by a threshold, the others by their means."""

import jax.numpy as jnp
import numpy as np

from experiments.conformance.check import close, same, softmax_roundings
from sparsevdit_jax import StepContext, VideoGrid, sparse_attention
from sparsevdit_jax.centroids import block_means
from sparsevdit_jax.patterns import SolAttn


def sol_attn(vectors):
    """Centroids, scores, thresholds, exact blocks, out and lse of a sequence without a grid."""
    q, k, v = (jnp.moveaxis(jnp.asarray(vectors[x], np.float32), 1, 2) for x in ("q", "k", "v"))
    start = int(vectors["sink_start"])
    pattern = SolAttn(
        float(vectors["tau"]),
        str(vectors["thresh_type"]),
        int(vectors["block"]),
        sink_tokens=int(vectors["sink_tokens"]),
        sink_start=None if start < 0 else start,
    )
    grid = VideoGrid(1, 1, q.shape[1])
    ctx, block = StepContext(grid), pattern.block
    mean = block / 3  # roundings of a sum of so many numbers, as softmax_roundings counts them
    yield close(
        "centroids", block_means(k, None, block).swapaxes(1, 2), vectors["k_centroid"], mean
    )
    sizes = np.asarray(pattern.token_order(grid).video_lengths)[:, None]
    sums = np.asarray(block_means(v, None, block).swapaxes(1, 2)) * sizes
    yield close("sums of values", sums, vectors["v_sum"], mean + 1)
    scores, threshold = pattern.routes(q, k, ctx)
    product = 2 * mean + 2 + q.shape[-1] / 2
    yield close("scores", scores, vectors["route_log2"], product)
    # The mean over blocks, a variance (squares, their mean, a product with them) and its root.
    count = scores.shape[-1]
    more = product + count / 3 + 2 * (2 + count / 3) + q.shape[-1] / 2 + 3
    yield close("thresholds", threshold, vectors["threshold_log2"], more)
    plan, _ = pattern.plan(q, k, (), ctx)
    yield same("exact blocks", plan.mask.to_dense(), vectors["exact_blocks"])
    out, lse = sparse_attention(q, k, v, grid=grid, pattern=pattern, return_lse=True)
    roundings = softmax_roundings(vectors["q"], vectors["k"]) + mean
    yield close("out", jnp.moveaxis(out, 2, 1), vectors["out"], roundings)
    yield close("lse", lse, vectors["lse"], roundings)


FAMILIES = {"sol_attn_": sol_attn}
