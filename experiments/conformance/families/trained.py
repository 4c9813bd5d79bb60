"""VSA (FastVideo) and SLA (thu-ml), with the branches that their trained weights combine."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.conformance.check import close, same, softmax_roundings
from sparsevdit_jax import StepContext, TokenOrder, VideoGrid, attend
from sparsevdit_jax.patterns import VSA
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
    yield close("scores", pattern.scores(q, k, ctx), vectors["block_scores"], small)
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
    """Cubes of canvases of any size: how many, how large, and in which order their tokens stand."""
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


FAMILIES = {"vsa_": vsa, "vsa_metadata": vsa_metadata}
