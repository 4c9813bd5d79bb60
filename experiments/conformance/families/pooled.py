"""Patterns that choose blocks by pooled queries and keys, and the orders they walk in."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from experiments.conformance.check import close, same, softmax_roundings
from sparsevdit_jax import StepContext, TokenOrder, VideoGrid, sparse_attention
from sparsevdit_jax.block_rules import keep_top
from sparsevdit_jax.curves import PATHS
from sparsevdit_jax.masks.blocks import touching
from sparsevdit_jax.patterns import (
    NABLA,
    CubeSparse,
    Draft,
    Jenga,
    LongCatBSA,
    RainFusion,
    SubBlock,
)
from sparsevdit_jax.pooled import pooled_scores, video_weights
from sparsevdit_jax.selection import round_down, round_up, row_budget
from sparsevdit_jax.token_order import gather_indices, slot_positions


def shape_of(array):
    """(frames, rows, columns) from a file."""
    frames, rows, columns = (int(n) for n in array)
    return frames, rows, columns


def sequence(vectors, order=None, names="qkv"):
    """The files' [B, H, S, D] as [B, S, H, D]; with `order` token i is the file's ``order[i]``."""
    arrays = [jnp.asarray(np.moveaxis(vectors[name], 1, 2), np.float32) for name in names]
    return arrays if order is None else [x[:, order] for x in arrays]


def mask_of(pattern, q, k, grid):
    """Bool [B, H, N, N] in the pattern's block order, text last."""
    plan, _ = pattern.plan(q, k, (), StepContext(grid))
    return np.asarray(plan.mask.to_dense())


def attention(vectors, pattern, grid, order=None, prefix=""):
    """Checks of out, and of lse where the file has it."""
    q, k, v = sequence(vectors, order)
    out, lse = sparse_attention(q, k, v, grid=grid, pattern=pattern, return_lse=True)
    order = np.arange(q.shape[1]) if order is None else order
    roundings = softmax_roundings(vectors["q"], vectors["k"])
    want = np.moveaxis(vectors[f"{prefix}out"], 1, 2)[:, order]
    yield close(f"{prefix}out", out, want, roundings)
    if f"{prefix}lse" in vectors:
        yield close(f"{prefix}lse", lse, vectors[f"{prefix}lse"][..., order], roundings)


def score_roundings(q, block):
    """Roundings in a row of a score of block means: two means, a product over channels, a factor."""
    return block / 3 + q.shape[-1] / 2 + 8


def subblock(vectors):
    """Scores and masks, from means in float32 and from means rounded to bfloat16.

    A file's queries and keys may differ in number, so the pattern's choice is made here from its parts.
    """
    q, k = sequence(vectors, names="qk")
    parts, block = (int(vectors["n_q"]), int(vectors["n_k"])), int(vectors["block"])
    orders = [TokenOrder(VideoGrid(1, 1, x.shape[1]), block) for x in (q, k)]
    ctx, pattern = (
        StepContext(orders[0].grid),
        SubBlock(1 - float(vectors["sparsity"]), block, *parts),
    )
    count, _ = row_budget(
        pattern.density, orders[1].num_blocks, ctx, rounding=round_up, multiple=pattern.multiple
    )
    yield same("blocks of a row", count, vectors["topk"])
    for rounded, suffix in ((False, ""), (True, "_bf16_cells")):
        scores = jax.jit(
            lambda q, k, rounded=rounded: pooled_scores(
                q, k, orders[0], ctx, parts=parts, rounded=rounded, kv_order=orders[1]
            )
        )(q, k)
        yield close(
            f"scores{suffix}", scores, vectors[f"scores{suffix}"], score_roundings(q, block)
        )
        yield same(f"mask{suffix}", keep_top(scores, count), vectors[f"block_mask{suffix}"])
        if q.shape == k.shape:
            chosen = dataclasses.replace(pattern, rounded=rounded)
            keep = mask_of(chosen, q, k, orders[0].grid)
            yield same(f"mask of the pattern{suffix}", keep, vectors[f"block_mask{suffix}"])


def longcat_bsa(vectors):
    """By number, by share (which leaves rows empty) and by both."""
    grid, tile = VideoGrid(*shape_of(vectors["canvas"])), shape_of(vectors["chunk"])
    q, k, _ = sequence(vectors)
    for rule in ("topk", "cdf", "both"):
        sparsity, mass = (None if np.isnan(x) else float(x) for x in vectors[f"{rule}_params"])
        pattern = LongCatBSA(None if sparsity is None else 1 - sparsity, mass, tile)
        yield same(f"{rule} mask", mask_of(pattern, q, k, grid), vectors[f"{rule}_mask"])
        yield from attention(vectors, pattern, grid, prefix=f"{rule}_")


def nabla(vectors):
    """The share of the mass, the window, both, and attention. The file holds raster tokens."""
    grid = VideoGrid(*shape_of(vectors["canvas"]))
    pattern = NABLA(float(vectors["P"]), shape_of(vectors["window"]))
    order = pattern.token_order(grid)
    yield same("order", gather_indices(order), vectors["perm"])
    yield same("window", pattern.window_blocks(order), vectors["sta_mask"])
    q, k, _ = sequence(vectors)
    without = dataclasses.replace(pattern, window=None)
    yield same("share of the mass", mask_of(without, q, k, grid), vectors["topcdf_mask"])
    keep = mask_of(pattern, q, k, grid)
    yield same("mask", keep, vectors["block_mask"])
    yield close("density", keep.mean((-1, -2)), vectors["density"], 1)
    yield from attention(vectors, pattern, grid)


def draft(vectors):
    """The draft map of cells, its threshold, and attention; text stands last."""
    grid = VideoGrid(*shape_of(vectors["grid"]), int(vectors["text"]))
    pattern = Draft(1 - float(vectors["sparsity"]))
    order, count = pattern.token_order(grid), vectors["draft_map"].shape[-1]
    yield same(
        "order",
        gather_indices(order)[: grid.num_video_tokens],
        vectors["perm"][: grid.num_video_tokens],
    )
    q, k, _ = sequence(vectors)
    scores = jax.jit(lambda q, k: pooled_scores(q, k, order, StepContext(grid)))(q, k)
    weights = video_weights(scores, order)[0]
    yield close(
        "draft map", weights, vectors["draft_map"], score_roundings(q, order.block) + count / 3
    )
    keep = mask_of(pattern, q, k, grid)[0]
    blocks = vectors["block_mask"].shape[-1]
    yield same("mask", keep[:, :blocks, :blocks], vectors["block_mask"])
    yield from attention(vectors, pattern, grid)


def jenga(vectors):
    """The curve, its inverse and which blocks touch; mask and attention where the file has them, whose
    tokens are in curve order.
    """
    shape, block = shape_of(vectors["grid"]), int(vectors["block"])
    order = TokenOrder(VideoGrid(*shape), block, path="gilbert")
    walk = PATHS["gilbert"](shape)
    yield same("curve", walk, vectors["hilbert_order"])
    yield same("inverse", slot_positions(order), vectors["linear_to_hilbert"])
    yield same("neighbours", touching(order), vectors["neighbours"])
    if "block_mask" not in vectors:
        return
    grid = VideoGrid(*shape, int(vectors["text"]))
    # Half a block more than the file's number, so that rounding down gives it.
    least = (int(vectors["top_k"]) + 0.5) / order.num_video_blocks
    pattern = Jenga(min(least, 1.0), float(vectors["p"]), block)
    places = slot_positions(pattern.token_order(grid))
    q, k, _ = sequence(vectors, places)
    yield same("mask", mask_of(pattern, q, k, grid), vectors["block_mask"])
    yield from attention(vectors, pattern, grid, places)


def cube_sparse(vectors):
    """Labels, scores, counts, the mask of tokens and attention.

    A file's sequence is text, keyframe, video, audio. Here audio is the end of the text, as both are
    dense, and a keyframe is the grid's first frame.
    """
    frames, rows, columns = shape_of(vectors["video_shape"])
    text, audio, keyframe = (int(vectors[name]) for name in ("text", "audio", "keyframe"))
    key = None if keyframe < 0 else keyframe
    grid = VideoGrid(frames + (key is not None), rows, columns, text + audio, text_first=True)
    length = len(vectors["label_of_token"])
    dense = np.r_[:text, length - audio : length]
    order = np.concatenate([dense, np.arange(text, length - audio)])
    pattern = CubeSparse(float(vectors["topk_ratio"]), shape_of(vectors["cube"]), key)
    q, k, _ = sequence(vectors, order)
    ctx, sparse = StepContext(grid), vectors["sparse_label"]
    scores = jax.jit(lambda q, k: pattern.scores(q, k, ctx))(q, k)[0]
    roundings = score_roundings(q, int(vectors["label_counts"].max()))
    yield close("scores", scores, vectors["label_scores"][:, sparse][..., sparse], roundings)
    count, _ = row_budget(pattern.density, sparse.sum(), ctx, rounding=round_down, single=True)
    yield same("cubes of a row", count, vectors["selected_counts"].max())
    # Blocks are numbered otherwise and text is cut otherwise, so masks of tokens are compared.
    plan, _ = pattern.plan(q, k, (), ctx)
    places = slot_positions(plan.q_order) if key is None else plan.q_order.positions[0, 0]
    block_of = np.asarray(places) // plan.mask.block_q
    slots, theirs = vectors["slot_token"], np.empty(length, int)
    theirs[slots[slots >= 0]] = np.flatnonzero(slots >= 0) // plan.mask.block_q
    keep, theirs = np.asarray(plan.mask.to_dense()), theirs[order]
    want = vectors["block_mask"][..., theirs, :][..., theirs]
    yield same("mask of tokens", keep[..., block_of, :][..., block_of], want)
    yield from attention(vectors, pattern, grid, order)


def rainfusion(vectors, dialect, text=0, text_first=False):
    """Order, scores, mask and attention of one dialect."""
    grid = VideoGrid(*shape_of(vectors["grid"]), text, text_first)
    density = 1 - float(vectors["sparsity"])
    pattern = RainFusion(density, int(vectors["pool_size"]), dialect)
    order = pattern.token_order(grid)
    yield same("order", gather_indices(order), vectors["order"])
    q, k, _ = sequence(vectors)
    scores = jax.jit(lambda q, k: pooled_scores(q, k, order, StepContext(grid)))(q, k)
    roundings = score_roundings(q, order.block)
    if dialect == "lightx2v":
        scores, roundings = jax.nn.softmax(scores, -1), roundings + order.num_blocks / 3
    yield close("scores", scores, vectors["block_scores"], roundings)
    yield same("mask", mask_of(pattern, q, k, grid), vectors["block_mask"])
    yield from attention(vectors, pattern, grid)


def rainfusion_lightx2v(vectors):
    """Text joins the blocks of the first frame."""
    text = int(vectors["text_len"])
    return rainfusion(vectors, "lightx2v", text, bool(vectors["text_first"]))


def rainfusion_sglang(vectors):
    """There is no text."""
    return rainfusion(vectors, "sglang")


def morton(vectors):
    """Tokens along the curve, with the frame (Sana) or the column (LightX2V) in the lowest bit."""
    paths = {"sana": "morton-frame", "lightx2v": "morton"}
    for name in vectors:
        if name != "provenance":
            author, shape = name.split("_")
            walk = PATHS[paths[author]](shape_of(shape.split("x")))
            yield same(name, walk, vectors[name])


FAMILIES = {
    "subblock_": subblock,
    "longcat_bsa": longcat_bsa,
    "nabla_": nabla,
    "rainfusion_lightx2v": rainfusion_lightx2v,
    "rainfusion_sglang": rainfusion_sglang,
    "cube_sparse": cube_sparse,
    "jenga_": jenga,
    "draft_": draft,
    "morton3d": morton,
}
