"""STA's tiles, windows and search (FastVideo), and block-sparse attention with blocks of any length."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.conformance.check import close, same, softmax_roundings
from pallas_kernels import BlockMask, block_sparse_attention
from sparsevdit_jax import VideoGrid, sparse_attention
from sparsevdit_jax.masks.blocks import axis_window
from sparsevdit_jax.patterns import SlidingTile
from sparsevdit_jax.search.rules import least_error


def _windows(rows):
    return tuple(tuple(int(n) for n in row) for row in rows)


def _sta(vectors, windows, **kwargs):
    return SlidingTile(tuple(int(n) for n in vectors["tile"]), _windows(windows), **kwargs)


def gradients(attend, arrays, names="qkv"):
    """(out, lse, gradients of q, k and v) of `attend` at raster arrays "q", "k", "v" and "do"."""
    (out, lse), vjp = jax.vjp(attend, *(jnp.asarray(arrays[name], np.float32) for name in names))
    return out, lse, vjp((jnp.asarray(arrays["do"], np.float32), jnp.zeros_like(lse)))


def sta(vectors):
    """Masks, out, lse and gradients of one latent grid. The files hold tokens in tile order, text last."""
    room, length = int(vectors["text_max_len"]), int(vectors["text_len"])
    grid = VideoGrid(*(int(n) for n in vectors["canvas"]), room)
    pattern, heads = _sta(vectors, vectors["windows"]), len(vectors["windows"])
    tiles = vectors["tile_mask"].shape[1]
    kept = pattern.keep_blocks(grid, heads)[:, :tiles, :tiles]
    yield same("tile mask", kept, vectors["tile_mask"])
    to_raster = np.argsort(vectors["perm"])
    to_raster = np.concatenate([to_raster, np.arange(grid.num_video_tokens, grid.num_tokens)])
    arrays = {x: np.moveaxis(vectors[x], 1, 2)[:, to_raster] for x in ("q", "k", "v", "do")}
    lengths = np.full(arrays["q"].shape[0], length, np.int32) if room else None

    def attend(q, k, v):
        return sparse_attention(
            q, k, v, grid=grid, pattern=pattern, text_lengths=lengths, return_lse=True
        )

    out, lse, grads = gradients(attend, arrays)
    real = np.arange(grid.num_tokens) < grid.num_video_tokens + length  # others hold padding
    roundings = softmax_roundings(vectors["q"], vectors["k"])
    want = np.moveaxis(vectors["out"], 1, 2)[:, to_raster]
    yield close("out", out[:, real], want[:, real], roundings)
    yield close("lse", lse[..., real], vectors["lse"][..., to_raster][..., real], roundings)
    roundings = softmax_roundings(vectors["q"], vectors["k"], gradient=True)
    for got, name in zip(grads, ("dq", "dk", "dv"), strict=True):
        yield close(name, got, np.moveaxis(vectors[name], 1, 2)[:, to_raster], roundings)


def sta_maskonly(vectors):
    """Tile masks of a production latent grid, by the paper's rule and by attention-gym's."""
    grid, windows = VideoGrid(*(int(n) for n in vectors["canvas"])), vectors["windows"]
    for rule, name in (("paper", "tile_mask"), ("exact", "tile_mask_attention_gym")):
        kept = _sta(vectors, windows, even_window=rule).keep_blocks(grid, len(windows))
        yield same(name, kept, vectors[name])
        if rule == "paper":
            yield close("density", kept.mean((1, 2)), vectors["density"], 1)


def sta_axis_rule(vectors):
    """First, last and number of the tiles that each tile sees along one axis, by both rules."""
    for rule, columns in (("paper", slice(3, 6)), ("exact", slice(6, 9))):
        found = []
        for count, window, tile, *_ in vectors["table"]:
            kept = np.flatnonzero(axis_window(count, window, rule)[tile])
            found.append((kept[0], kept[-1], len(kept)))
        yield same(f"{rule} rule", found, vectors["table"][:, columns])


def sta_mask_search(vectors):
    """The window of least loss for each step, layer and head; full windows in the first steps."""
    error = np.moveaxis(vectors["losses"], 1, 3)  # prompt, step, layer, candidate, head
    chosen = vectors["candidates"][least_error(error)]
    for skip in (0, 2, 6):
        expected = vectors[f"strategy_skip{skip}"]
        found = np.concatenate(
            [np.broadcast_to(vectors["full_window"], expected[:skip].shape), chosen[skip:]]
        )
        yield same(f"strategy with {skip} full steps", found, expected)


def sta_rowprobe(vectors):
    """Rows of a production-size problem, whose arrays are drawn anew from the file's seed."""
    room, length = int(vectors["text_max_len"]), int(vectors["text_len"])
    grid = VideoGrid(*(int(n) for n in vectors["canvas"]), room)
    pattern, rows = _sta(vectors, vectors["windows"]), vectors["rows"]
    heads, dim, video = len(vectors["windows"]), int(vectors["head_dim"]), grid.num_video_tokens
    keep = pattern.keep_blocks(grid, heads)
    tile = int(np.prod(vectors["tile"]))
    for head in range(heads):
        q, k, v = _drawn(vectors, head, grid.num_tokens, dim)
        kept = np.zeros((len(rows), grid.num_tokens), bool)
        for place, row in enumerate(rows):
            tiles = keep[head, row // tile, : video // tile] if row < video else True
            kept[place, :video] = np.repeat(tiles, tile) if row < video else True
            kept[place, video : video + length] = True
        # One query a block, so that a row has a list of its own; keys in tile order, as the file has them.
        blocks = BlockMask.from_dense(kept, block_q=1, block_kv=1)
        q, k, v = (jnp.asarray(x, np.float32)[None, :, None] for x in (q[rows], k, v))
        out, lse = block_sparse_attention(q, k, v, blocks, implementation="reference")
        roundings = softmax_roundings(q[0, :, 0], k[0, :, 0])
        yield close(f"out of head {head}", out[0, :, 0], vectors["out"][head], roundings)
        yield close(f"lse of head {head}", lse[0, 0], vectors["lse"][head], roundings)


def _drawn(vectors, head, tokens, dim):
    """q, k, v of one head as the file's README draws them, rounded to bfloat16."""
    random = np.random.RandomState(int(vectors["seed0"]) + head)
    for _ in range(3):
        x = random.standard_normal((tokens, dim))
        if str(vectors["dist"]) != "normal":
            x = x.astype(np.float32)
            size = np.linalg.norm(x, axis=-1, keepdims=True)
            x = x * (random.standard_normal(size.shape).astype(np.float32) * 10.0 + 0.1) / size
        yield np.asarray(jnp.asarray(x, jnp.float32).astype(jnp.bfloat16), np.float32)


def block_sparse(vectors):
    """Attention under a block map whose blocks hold any number of tokens up to a size."""
    block = int(vectors["block_size"])
    sizes = {name: vectors[f"{name}_block_sizes"].astype(np.int32) for name in ("q", "kv")}
    # Tokens stand without padding in the file; here each block begins at a multiple of its size.
    places = {
        name: np.concatenate([block * i + np.arange(n) for i, n in enumerate(lengths)])
        for name, lengths in sizes.items()
    }
    mask = BlockMask.from_dense(
        vectors["block_map"],
        block_q=block,
        block_kv=block,
        q_lengths=sizes["q"],
        kv_lengths=sizes["kv"],
    )

    def padded(x, name):
        x, slots = jnp.moveaxis(x, 1, 2), block * len(sizes[name])
        return jnp.zeros((x.shape[0], slots, *x.shape[2:]), x.dtype).at[:, places[name]].set(x)

    def attend(q, k, v):
        q, k, v = padded(q, "q"), padded(k, "kv"), padded(v, "kv")
        out, lse = block_sparse_attention(q, k, v, mask)
        return jnp.moveaxis(out[:, places["q"]], 2, 1), lse[..., places["q"]]

    out, lse, grads = gradients(attend, vectors)
    roundings = softmax_roundings(vectors["q"], vectors["k"])
    yield close("out", out, vectors["out"], roundings)
    yield close("lse", lse, vectors["lse"], roundings)
    roundings = softmax_roundings(vectors["q"], vectors["k"], gradient=True)
    for got, name in zip(grads, ("dq", "dk", "dv"), strict=True):
        yield close(name, got, vectors[name], roundings)


FAMILIES = {
    "sta_": sta,
    "sta_maskonly": sta_maskonly,
    "sta_axis_rule": sta_axis_rule,
    "sta_mask_search": sta_mask_search,
    "sta_rowprobe": sta_rowprobe,
    "blocksparse_vbs": block_sparse,
}
