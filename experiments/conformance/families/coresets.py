"""Queries, or queries and keys, of which some stand for others: FastVideo's BSA and VORTA."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.conformance.check import close, same, softmax_roundings
from experiments.conformance.families.tiles import gradients
from sparsevdit_jax import StepContext, VideoGrid, sparse_attention
from sparsevdit_jax.coreset import least_alike
from sparsevdit_jax.patterns import Coreset, FastVideoBSA
from sparsevdit_jax.patterns.vorta import router_experts, router_scores
from sparsevdit_jax.token_order import gather_indices


def _grid(vectors):
    return VideoGrid(*(int(n) for n in vectors["grid"]))


def _raster(vectors, name):
    """An array [B, H, S, D] of a file as [B, S, H, D]."""
    return jnp.asarray(np.moveaxis(vectors[name], 1, 2), np.float32)


def fastvideo_bsa(vectors):
    """Tile order, likeness to slot 32, kept queries, map of the tiles, kept tiles and out."""
    grid, (q, k, v) = _grid(vectors), (_raster(vectors, name) for name in "qkv")
    pattern = FastVideoBSA(
        tuple(int(n) for n in vectors["tile"]),
        float(vectors["query_keep_ratio"]),
        float(vectors["kv_cumulative_threshold"]),
        int(vectors["min_kv_blocks"]),
    )
    order = pattern.tiles(grid)
    yield same("tile order", gather_indices(order), vectors["perm"])

    @jax.jit
    def choose(q, k):
        alike = pattern.likeness(q, order)
        slots = least_alike(alike)
        mass = pattern.tile_mass(q, k, slots, order, StepContext(grid))
        queries = pattern.query_order(slots, order, StepContext(grid))
        return alike, mass, pattern.keep_tiles(mass), queries.gather

    alike, mass, tiles, gather = choose(q, k)
    yield close("likeness", alike, vectors["similarity"], 2 * q.shape[-1])
    kept = vectors["keep_indices"].astype(int)
    tile_starts = order.block * np.arange(kept.shape[2])[:, None]
    expected = vectors["perm"][kept + tile_starts].reshape(gather.shape)
    yield same("kept queries", gather, expected)
    # Means of a tile, their product, and exp of it.
    pooled = softmax_roundings(vectors["q"], vectors["k"])
    yield close("map of the tiles", mass, vectors["block_attn"], pooled)
    yield same("kept tiles", tiles, vectors["kv_mask"])
    out = sparse_attention(q, k, v, grid=grid, pattern=pattern)
    yield close("out", np.moveaxis(out, 1, 2), vectors["out"], pooled)


def vorta_coreset(vectors):
    """Centres, likeness, tokens that stay and that do not, out and gradients."""
    grid, arrays = _grid(vectors), {x: _raster(vectors, x) for x in "qkv"}
    pattern = Coreset(
        tuple(int(n) for n in vectors["window"]), float(vectors["reduction_rate"]), block=16
    )
    buckets = pattern.buckets(grid)
    alike = np.asarray(jax.jit(pattern.likeness, static_argnums=1)(arrays["q"], buckets))
    token = gather_indices(buckets).reshape(buckets.num_video_blocks, -1)
    is_centre = np.isneginf(alike[0, 0])
    yield same("centres", token[is_centre], vectors["center_token"])
    shape = *alike.shape[:3], -1
    margins = alike[np.broadcast_to(~is_centre, alike.shape)].reshape(shape)
    yield close("likeness", margins, vectors["similarity"], 2 * arrays["q"].shape[-1])
    ranked = np.take_along_axis(
        np.broadcast_to(token, alike.shape), np.asarray(least_alike(alike)), 3
    )
    kept = int(pattern.kept_tokens(buckets)[0])
    yield same("tokens that stay", ranked[..., 1:kept], vectors["kept_margin_tokens"])
    yield same("tokens that do not", ranked[..., kept:], vectors["dropped_tokens"])

    def attend(q, k, v):
        return sparse_attention(q, k, v, grid=grid, pattern=pattern, return_lse=True)

    out, _, grads = gradients(attend, arrays | {"do": _raster(vectors, "dout")})
    roundings = softmax_roundings(vectors["q"], vectors["k"])
    yield close("out", np.moveaxis(out, 1, 2), vectors["out"], roundings)
    roundings = softmax_roundings(vectors["q"], vectors["k"], gradient=True)
    for got, name in zip(grads, ("dq", "dk", "dv"), strict=True):
        yield close(name, np.moveaxis(got, 1, 2), vectors[name], roundings)


def vorta_router(vectors):
    """Scores of the experts of each head, and the expert at each threshold."""
    given = (jnp.asarray(vectors[name], np.float32) for name in ("temb", "weight", "bias"))
    scores = router_scores(*given)
    yield close("scores", scores, vectors["score"], vectors["temb"].shape[-1])
    found = [router_experts(scores, float(threshold)) for threshold in vectors["taus"]]
    yield same("experts", found, vectors["expert_per_head"])


FAMILIES = {
    "fastvideo_bsa": fastvideo_bsa,
    "vorta_coreset": vorta_coreset,
    "vorta_router": vorta_router,
}
