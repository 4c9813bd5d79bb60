"""VSA (FastVideo) and SLA (thu-ml), with the branches that their trained weights combine."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from experiments.conformance.check import close, same, softmax_roundings
from sparsevdit_jax import StepContext, TokenOrder, VideoGrid, attend
from sparsevdit_jax.patterns import SLA, VSA, VSAH3
from sparsevdit_jax.pooled import pooled_scores
from sparsevdit_jax.token_order import gather_indices


def tokens_first(x):
    """[B, H, S, D] of the files to [B, S, H, D]."""
    return jnp.asarray(np.moveaxis(np.asarray(x), 1, 2), jnp.float32)


def heads_first(x):
    """The inverse."""
    return np.moveaxis(np.asarray(x), 2, 1)


def vsa(vectors):
    """Scores, chosen cubes, both branches, their sum under the gate, and gradients."""
    grid = VideoGrid(*(int(n) for n in vectors["canvas"]))
    tile = tuple(int(n) for n in vectors["tile"])
    order = VSA(1.0, tile).token_order(grid)
    kept, count = int(vectors["topk"]), order.num_video_blocks
    pattern, ctx = VSA(kept / count, tile), StepContext(grid)
    q, k, v, do = (tokens_first(vectors[name]) for name in ("q", "k", "v", "do"))
    gate = tokens_first(vectors["gate"]) if vectors["gate"].size else jnp.ones_like(q)
    yield from _cubes(order, vectors["variable_block_sizes"], vectors["perm"])

    def run(q, k, v):
        attended = attend(pattern, q, k, v, (), ctx)
        return attended.out + gate * attended.side, attended

    out, vjp, attended = jax.vjp(run, q, k, v, has_aux=True)
    small = q.shape[-1] / 2 + 2 * order.block / 3  # a product of two means
    yield close("scores", pooled_scores(q, k, order, ctx), vectors["block_scores"], small)
    mask = pattern.plan(q, k, (), ctx)[0].mask.to_dense()
    yield same("chosen cubes", mask, vectors["block_mask"])
    roundings = softmax_roundings(vectors["q"], vectors["k"])
    yield close("sparse branch", heads_first(attended.out), vectors["out_sparse"], roundings)
    yield close("coarse branch", heads_first(attended.side), vectors["out_compress"], roundings)
    yield close("out", heads_first(out), vectors["out"], roundings)
    roundings = softmax_roundings(vectors["q"], vectors["k"], gradient=True)
    for name, got in zip(("dq", "dk", "dv"), vjp(do), strict=True):
        yield close(name, heads_first(got), vectors[name], roundings)


def _cubes(order, sizes, perm):
    yield same("tokens of each cube", order.video_lengths, sizes)
    slots = gather_indices(order)
    yield same("order", slots[slots < order.grid.num_tokens], perm)


def vsa_metadata(vectors):
    """Cubes of latent grids of any size: how many, how large, and in which order their tokens stand."""
    for name in dict.fromkeys(key.partition("__")[0] for key in vectors if "__" in key):
        canvas, tile = (tuple(int(n) for n in part[1:].split("x")) for part in name.split("_"))
        order = TokenOrder(VideoGrid(*canvas), int(np.prod(tile)), tile)
        yield same(f"{name} cubes", order.tiles, vectors[f"{name}__num_tiles"])
        sizes, perm = (vectors[f"{name}__{x}"] for x in ("variable_block_sizes", "perm"))
        yield from _cubes(order, sizes, perm)
        if f"{name}__non_pad_index" in vectors:
            full = np.arange(len(sizes))[:, None] * order.block + np.arange(order.block)
            real = full[np.arange(order.block) < order.video_lengths[:, None]]
            yield same(f"{name} real slots", real, vectors[f"{name}__non_pad_index"])


def vsa_h3(vectors):
    """Segments of a prefix in tiles of their own, exempt from the budget or competing for it."""
    segments = tuple(int(n) for n in vectors["prefix_segments"])
    shape = (int(n) for n in vectors["video_grid"])
    grid = VideoGrid(*shape, text_len=sum(segments), text_first=True)
    tile = tuple(int(n) for n in vectors["tile"])
    cubes = int(vectors["num_video_tiles"])
    # The authors' count, in their arithmetic.
    count = max(1, min(math.ceil((1 - float(vectors["sparsity"])) * cubes), cubes))
    pattern = VSAH3(count / cubes, tile, segments, not bool(vectors["exempt"]))
    ctx = StepContext(grid)
    tiles = pattern.tiles(ctx)
    yield same("slots", tiles.positions[0, 0], vectors["slot_of_token"])
    yield same("tokens of each tile", tiles.lengths[0, 0], vectors["variable_block_sizes"])
    q, k, v, gate = (tokens_first(vectors[name]) for name in ("q", "k", "v", "gate"))
    small = q.shape[-1] / 2 + 2 * math.prod(tile) / 3
    yield close("scores", pattern.scores(q, k, ctx), vectors["block_scores"], small)
    mask = pattern.plan(q, k, (), ctx)[0].mask.to_dense()
    yield same("chosen tiles", mask, vectors["block_mask"])
    attended = attend(pattern, q, k, v, (), ctx)
    roundings = softmax_roundings(vectors["q"], vectors["k"])
    yield close("sparse branch", heads_first(attended.out), vectors["out_sparse"], roundings)
    yield close("lse", attended.lse, vectors["lse"], roundings)
    out = attended.out + gate * attended.side
    yield close("out", heads_first(out), vectors["out"], roundings)


def _grid(vectors, name="q", axis=2):
    """Tokens in a row: what knows no video."""
    return VideoGrid(1, 1, vectors[name].shape[axis])


def _linear_roundings(vectors):
    """Features, a product over channels, and two sums over keys."""
    return 12 + vectors["q"].shape[-1] + 2 * vectors["q"].shape[2] / 3


def sla(vectors):
    """Chosen blocks, both branches, their sum behind the projection, and gradients."""
    kept, blocks = int(vectors["topk_blocks"]), vectors["block_map"].shape[-1]
    pattern = SLA(
        kept / blocks,
        int(vectors["BLKQ"]),
        int(vectors["BLKK"]),
        feature_map=str(vectors["feature_map"]),
    )
    ctx = StepContext(_grid(vectors))
    q, k, v, do = (tokens_first(vectors[name]) for name in ("q", "k", "v", "do"))
    weight, bias = (jnp.asarray(vectors[f"proj_{x}"]) for x in ("weight", "bias"))

    def run(q, k, v):
        attended = attend(pattern, q, k, v, (), ctx)
        return attended.out + attended.side @ weight.T + bias[None, None, None], attended

    out, vjp, attended = jax.vjp(run, q, k, v, has_aux=True)
    mask = pattern.plan(q, k, (), ctx)[0].mask.to_dense()
    yield same("chosen blocks", mask, vectors["block_map"])
    roundings = softmax_roundings(vectors["q"], vectors["k"])
    yield close("sparse branch", heads_first(attended.out), vectors["out_sparse"], roundings)
    linear = _linear_roundings(vectors)
    yield close("linear branch", heads_first(attended.side), vectors["out_linear"], linear)
    roundings += linear + q.shape[-1] / 2
    yield close("out", heads_first(out), vectors["out"], roundings)
    for name, got in zip(("dq", "dk", "dv"), vjp(do), strict=True):
        yield close(name, heads_first(got), vectors[name], 3 * roundings)


def sla1(vectors):
    """The authors' branch SLA-1: linear attention over the blocks that are not chosen."""
    kept, blocks = int(vectors["topk"]), vectors["block_map"].shape[-1]
    pattern = SLA(kept / blocks, int(vectors["BLKQ"]), int(vectors["BLKK"]), over="rest")
    ctx = StepContext(_grid(vectors))
    q, k, v = (tokens_first(vectors[name]) for name in ("q", "k", "v"))

    def run(q, k, v):
        attended = attend(pattern, q, k, v, (), ctx)
        return attended.out, attended.side

    (out, side), vjp = jax.vjp(run, q, k, v)
    mask = pattern.plan(q, k, (), ctx)[0].mask.to_dense()
    yield same("chosen blocks", mask, vectors["block_map"].astype(bool))
    roundings, linear = softmax_roundings(vectors["q"], vectors["k"]), _linear_roundings(vectors)
    yield close("sparse branch", heads_first(out), vectors["out_sparse"], roundings)
    yield close("linear branch", heads_first(side), vectors["out_linear"], linear)
    grads = vjp(tuple(tokens_first(vectors[f"do_{x}"]) for x in ("sparse", "linear")))
    for name, got in zip(("dq", "dk", "dv"), grads, strict=True):
        yield close(name, heads_first(got), vectors[name], 3 * (roundings + linear))


def sparse_formulas(vectors):
    """VSA and SLA as released checkpoints compute them: tokens first, evaluated in float64."""
    grid = VideoGrid(*(int(n) for n in vectors["vsa/grid"]))
    pattern, ctx = VSA(1 - float(vectors["vsa/sparsity"])), StepContext(grid)
    q, k, v, gate = (jnp.asarray(vectors[f"vsa/{x}"]) for x in ("q", "k", "v", "gate"))
    mask = pattern.plan(q, k, (), ctx)[0].mask.to_dense()
    yield same("VSA's cubes", mask, vectors["vsa/block_mask"])
    attended = attend(pattern, q, k, v, (), ctx)
    roundings = softmax_roundings(*(np.moveaxis(vectors[f"vsa/{x}"], 1, 2) for x in "qk"))
    yield close("VSA's sparse branch", attended.out, vectors["vsa/out_sparse"], roundings)
    yield close("VSA's coarse branch", attended.side, vectors["vsa/out_compress"], roundings)
    out = attended.out + gate * attended.side
    yield close("VSA", out, vectors["vsa/out"], roundings)

    q, k, v = (tokens_first(vectors[f"sla/{x}"]) for x in "qkv")
    pattern, ctx = SLA(float(vectors["sla/topk_ratio"])), StepContext(_grid(vectors, "sla/q"))
    mask = pattern.plan(q, k, (), ctx)[0].mask.to_dense()
    yield same("SLA's blocks", mask, vectors["sla/block_mask"])
    attended = attend(pattern, q, k, v, (), ctx)
    roundings = softmax_roundings(vectors["sla/q"], vectors["sla/k"])
    linear = 12 + q.shape[-1] + 2 * q.shape[1] / 3
    yield close(
        "SLA's sparse branch", heads_first(attended.out), vectors["sla/out_sparse"], roundings
    )
    yield close(
        "SLA's linear branch", heads_first(attended.side), vectors["sla/out_linear"], linear
    )
    weight, bias = (jnp.asarray(vectors[f"sla/proj_l_{x}"]) for x in ("weight", "bias"))
    out = attended.out + attended.side @ weight.T + bias[None, None, None]
    yield close("SLA", heads_first(out), vectors["sla/out"], roundings + linear + 8)


FAMILIES = {
    "vsa_": vsa,
    "vsa_metadata": vsa_metadata,
    "vsa_h3": vsa_h3,
    "sla_": sla,
    "sla1_": sla1,
    "sparse_formulas": sparse_formulas,
}
