"""Sparse VideoGen (svg-project): masks of three models, and its attention from the choice of kinds on."""

import re

import jax.numpy as jnp
import numpy as np

from experiments.conformance.check import close, same, softmax_roundings
from sparsevdit_jax import KernelOptions, Phase, StepContext, VideoGrid, attend
from sparsevdit_jax.masks.blocks import band_width
from sparsevdit_jax.patterns import SVG
from sparsevdit_jax.token_order import gather_indices, slot_positions

_NAME = re.compile(
    r"(wan|hunyuan|cog)_(profile|kernel)_(?:(spatial|temporal)_)?f(\d+)_t(\d+)(?:_ctx(\d+))?"
    r"(?:_p(\d+))?(?:_mul([\d.]+))?(?:_sink([01]))?__packed"
)
_DIALECTS = {"wan": "wan", "hunyuan": "hunyuanvideo", "cog": "cogvideox"}
_KINDS = ("spatial", "temporal")


def masks(vectors):
    """Profiling masks, token bands and band widths, named by their settings."""
    for name in vectors:
        if not (found := _NAME.fullmatch(name)):
            continue
        model, what, kind, frames, size, _, prompt, width, sink = found.groups()
        rows, columns = vectors[name.replace("packed", "shape")]
        want = np.unpackbits(vectors[name], axis=-1, count=columns).astype(bool)
        video = int(frames) * int(size)
        grid = VideoGrid(int(frames), 1, int(size), int(rows) - video, text_first=model == "cog")
        if what == "profile":
            pattern, places = SVG(dialect=_DIALECTS[model]), np.arange(grid.num_tokens)
            got = np.asarray(pattern.profiles(grid, places.astype(np.int32)))[_KINDS.index(kind)]
            # Rows are drawn from the video; those of text do not matter, and some of the code's are empty.
            here = np.s_[grid.video_start : grid.video_start + video]
            yield same(name.removesuffix("__packed"), got[here], want[here])
            continue
        sink = None if sink is None else sink == "1"
        pattern = SVG(dialect=_DIALECTS[model], width=float(width), sink=sink, block=1)
        slots = slot_positions(pattern.orders(grid)[0])
        got = pattern.keep_blocks(grid, pattern.width)[slots][:, slots]
        # HunyuanVideo's text beyond the prompt sees itself alone there; here it is no text at all.
        real = video + int(prompt) if model == "hunyuan" and prompt else grid.num_tokens
        got[real:], got[:, real:], want[real:, real:] = False, False, False
        yield same(name.removesuffix("__packed"), got, want)
    if "sparsity_to_width_table" in vectors:
        table = vectors["sparsity_to_width_table"]
        grids = [(VideoGrid(int(f), 1, int(p), int(text)), s) for s, text, f, p, _ in table]
        widths = [band_width(grid, density) for grid, density in grids]
        yield close("widths", widths, table[:, -1], 1)


def attention(vectors):
    """The errors of sampled rows, the kinds chosen, and attention under the band token by token."""
    frames, size = int(vectors["num_frames"]), int(vectors["frame_size"])
    grid = VideoGrid(frames, 1, size, vectors["q"].shape[2] - frames * size)
    rows = tuple(int(row) for row in vectors["sampled_rows"])
    dialect = "hunyuanvideo" if grid.text_len else "wan"
    pattern = SVG(dialect=dialect, width=float(vectors["mul"]), rows=rows, block=1)
    qkv = [jnp.asarray(np.moveaxis(vectors[x], 1, 2), np.float32) for x in "qkv"]
    ctx = StepContext(grid, Phase.REUSE, kernel=KernelOptions("reference"))
    roundings = softmax_roundings(vectors["q"], vectors["k"])
    # The difference of two attentions of about equal size, squared.
    errors = pattern.errors(*qkv, ctx)
    yield close("errors of sampled rows", errors, vectors["sampled_mse"], 4 * roundings)
    want = vectors["kernel_mask_packed"]
    want = np.unpackbits(want, axis=-1, count=grid.num_tokens).astype(bool)
    yield same("band", pattern.keep_blocks(grid, pattern.width), want)
    gather = gather_indices(pattern.orders(grid)[1])
    yield same("order of temporal heads", gather, vectors["token_major_perm"])
    state = pattern.init(grid, batch=qkv[0].shape[0], num_heads=qkv[0].shape[2], head_dim=1)
    done = attend(pattern, *qkv, state, ctx)
    yield same("kinds", done.state, vectors["best_mask_idx"])
    yield close("out", jnp.moveaxis(done.out, 1, 2), vectors["out"], roundings)
    yield close("lse", done.lse, vectors["lse"], roundings)


FAMILIES = {"svg_masks": masks, "svg_e2e": attention}
