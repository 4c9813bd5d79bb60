"""SSTA of HunyuanVideo 1.5, whose authors let padding take part in the softmax."""

import jax.numpy as jnp
import numpy as np

from experiments.conformance.check import close, same, softmax_roundings
from sparsevdit_jax import StepContext, VideoGrid, sparse_attention
from sparsevdit_jax.patterns import SSTA


def ssta(vectors):
    """Masks, and out with the authors' padding as tokens and, as this library means it, without."""
    room, valid = int(vectors["text_len"]), int(vectors["text_valid"])
    pattern = SSTA(
        tuple(int(n) for n in vectors["tile"]),
        tuple(int(n) for n in vectors["window"]),
        int(vectors["topk"]),
        str(vectors["sampling"]),
        float(vectors["lambda_"]),
        bool(vectors["share_heads"]),
    )
    canvas, block = tuple(int(n) for n in vectors["canvas"]), int(np.prod(pattern.tile))
    grid = VideoGrid(*canvas, room)
    arrays = [np.moveaxis(vectors[x], 1, 2).astype(np.float32) for x in ("q", "k", "v")]
    batch, _, heads, _ = arrays[0].shape
    roundings = softmax_roundings(vectors["q"], vectors["k"])
    want = np.moveaxis(vectors["out"], 1, 2)

    def run(grid, arrays, length, name):
        lengths = np.full(batch, length, np.int32) if grid.text_len else None
        q, k, v = (jnp.asarray(x) for x in arrays)
        plan, _ = pattern.plan(q, k, (), StepContext(grid, text_lengths=lengths))
        real = plan.q_order.num_video_blocks + -(-length // block)  # later ones hold padding
        kept = np.asarray(plan.mask.to_dense())[..., :real, :real]
        theirs = vectors["block_mask"][..., :real, :real]
        yield same(f"blocks, {name}", kept, np.broadcast_to(theirs, kept.shape))
        out = sparse_attention(q, k, v, grid=grid, pattern=pattern, text_lengths=lengths)
        yield np.asarray(out)

    # Padding as tokens: zeros beyond the latent grid, copies of the last text token, blocks of text whole.
    sizes = [-(-n // t) * t for n, t in zip(canvas, pattern.tile, strict=True)]
    blocks = -(-room // block)
    padded = VideoGrid(*sizes, blocks * block)
    at = np.arange(padded.num_video_tokens).reshape(sizes)[tuple(map(slice, canvas))].reshape(-1)
    filled = []
    for x in arrays:
        whole = np.zeros((batch, padded.num_tokens, *x.shape[2:]), np.float32)
        whole[:, at] = x[:, : grid.num_video_tokens]
        whole[:, padded.num_video_tokens :] = x[:, -1:]
        whole[:, padded.num_video_tokens :][:, :room] = x[:, grid.num_video_tokens :]
        filled.append(whole)
    length = max(-(-valid // block), 1) * block if room else 0
    mask, out = run(padded, filled, length, "with padding")
    yield mask
    yield close("out of video, with padding", out[:, at], want[:, : len(at)], roundings)
    if room:
        seen = min(room, length)
        text = out[:, padded.num_video_tokens :][:, :seen]
        yield close("out of text, with padding", text, want[:, len(at) :][:, :seen], roundings)
    mask, out = run(grid, arrays, valid, "without padding")
    yield mask
    # The authors have no such output: it is softmax attention in float64 under their mask.
    block_of = np.concatenate(
        [
            _tiles(grid, pattern.tile),
            pattern.token_order(grid).num_video_blocks + np.arange(room) // block,
        ]
    )
    real = np.arange(grid.num_tokens) < grid.num_video_tokens + valid
    q, k, v = (x[:, real].astype(np.float64) for x in arrays)
    keep = np.broadcast_to(vectors["block_mask"], (batch, heads, *vectors["block_mask"].shape[-2:]))
    keep = keep[:, :, block_of[real]][..., block_of[real]]
    logits = np.einsum("bqhd,bkhd->bhqk", q, k) * q.shape[-1] ** -0.5
    weights = np.where(keep, np.exp(logits - logits.max(-1, keepdims=True)), 0)
    exact = np.einsum("bhqk,bkhd->bqhd", weights / weights.sum(-1, keepdims=True), v)
    yield close("out, without padding", out[:, real], exact, roundings)


def _tiles(grid, tile):
    """Tile of each video token in raster order."""
    index = 0
    for x, n, t in zip(grid.coordinates().T, grid.shape, tile, strict=True):
        index = index * -(-n // t) + x // t
    return index


FAMILIES = {"ssta_": ssta}
