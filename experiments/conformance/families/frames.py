"""Patterns made of frames: Radial (mit-han-lab, LightX2V), LVSA (JiusiServe)."""

import itertools
import re

import jax.numpy as jnp
import numpy as np

from experiments.conformance.check import close, same, softmax_roundings
from experiments.conformance.families.tiles import gradients
from pallas_kernels import BlockMask, block_sparse_attention
from sparsevdit_jax import StepContext, VideoGrid, attend
from sparsevdit_jax.patterns import LVSA, Radial


def _unpacked(array, columns):
    if array.dtype == np.bool_:
        return array
    return np.unpackbits(array, axis=-1, count=columns).astype(bool)


def _radial_blocks(grid, pattern):
    """The pattern's blocks as the authors number them: joint, a block with video and text being text's."""
    keep = pattern.keep_blocks(grid, 1)[0]
    video = grid.num_video_tokens // pattern.block  # blocks that hold nothing but video
    joint = grid.num_tokens / pattern.block
    return keep[:video, :video], video, joint


def _same_radial(name, grid, pattern, want):
    """Compares a block mask of the authors, who also round the number of blocks down or up."""
    keep, video, joint = _radial_blocks(grid, pattern)
    expected = np.ones(want.shape, bool)
    expected[:video, :video] = keep
    yield same(f"{name}: blocks", expected, want)
    yield same(f"{name}: number", len(want) in (np.floor(joint), np.ceil(joint)), True)


def radial_masks(vectors):
    """Block masks of mit-han-lab/radial-attention and of LightX2V, named by their settings."""
    for name in vectors:
        if found := re.fullmatch(r"(lightx2v|mit)_(\w+)_(\d+)x(\d+)_decay([\d.]+)_text(\d+)", name):
            dialect, model, frames, size, decay, text = found.groups()
            block = 128
        elif found := re.match(r"(wan|hunyuan)_f(\d+)_t(\d+)_b(\d+)_d([\d.]+)_txt(\d+)", name):
            model, frames, size, block, decay, text = found.groups()
            dialect = "mit"
            if name.endswith("__shape") or vectors[name].ndim != 2:
                continue
        else:
            continue
        grid, block = VideoGrid(int(frames), 1, int(size), int(text)), int(block)
        wan = model == "wan"
        half = wan and dialect == "lightx2v"
        pattern = Radial(float(decay), wan, half_neighbours=half, block=block)
        blocks = grid.num_tokens / block
        rows = len(vectors[name])
        columns = rows if rows in (np.floor(blocks), np.ceil(blocks)) else None
        yield from _same_radial(name, grid, pattern, _unpacked(vectors[name], columns))


_NAMES = {  # of a setting, in files of different age
    "frames": ("num_frames", "num_frame", "frames", "F", "T"),
    "size": ("frame_size", "token_per_frame", "tokens_per_frame", "tokens"),
    "block": ("block_size", "block"),
    "decay": ("decay_factor", "decay"),
    "model": ("model_type", "model"),
    "text": ("text_len", "text", "context_length"),
}


def _settings(vectors):
    found = {}
    for name, keys in _NAMES.items():
        key = next((key for key in keys if key in vectors), None)
        if key is not None:
            found[name] = vectors[key].item()
    return found


def _listed_blocks(vectors):
    """The block mask of a file, bool [N, N]: as it is, or from the rows that a sparse kernel reads."""
    for name in vectors:
        if "mask" in name and vectors[name].ndim == 2 and vectors[name].dtype == np.bool_:
            return vectors[name]
    starts, keys = vectors["indptr"].reshape(-1), vectors["indices"].reshape(-1)
    keep = np.zeros((len(starts) - 1,) * 2, bool)
    for row, (begin, end) in enumerate(itertools.pairwise(starts)):
        keep[row, keys[begin:end]] = True
    return keep


def radial_attention(vectors):
    """Attention under a Radial mask: out, lse where there is one, and gradients."""
    settings, want = _settings(vectors), _listed_blocks(vectors)
    length = vectors["q"].shape[2]
    block = settings.get("block", length // len(want))
    if {"frames", "size", "decay", "model"} <= settings.keys():
        text = settings.get("text", length - settings["frames"] * settings["size"])
        grid = VideoGrid(settings["frames"], 1, settings["size"], text)
        pattern = Radial(settings["decay"], settings["model"] == "wan", block=block)
        yield from _same_radial("mask", grid, pattern, want)
    mask = BlockMask.from_dense(want, block_q=block, block_kv=block)

    def masked(q, k, v):
        return block_sparse_attention(q, k, v, mask)

    arrays = {x: np.moveaxis(vectors[x], 1, 2) for x in ("q", "k", "v", "do")}
    out, lse, grads = gradients(masked, arrays)
    roundings = softmax_roundings(vectors["q"], vectors["k"])
    yield close("out", jnp.moveaxis(out, 1, 2), vectors["out"], roundings)
    if "lse" in vectors:
        yield close("lse", lse, vectors["lse"], roundings)
    for got, name in zip(grads, ("dq", "dk", "dv"), strict=True):
        if name in vectors:
            got = jnp.moveaxis(got, 1, 2)
            roundings = softmax_roundings(vectors["q"], vectors["k"], gradient=True)
            yield close(name, got, vectors[name], roundings)


def lvsa_frames(vectors):
    """Interval and frame mask of every clip, setting and step of a sweep, whose columns the file names."""
    columns, start = str(vectors["columns"]).split(","), 0
    found, offsets, wrong = [], [], 0
    for values, count in zip(vectors["rows"], vectors["mask_bytes"], strict=True):
        row = dict(zip(columns, values, strict=True))
        frames, step = int(row["T"]), int(row["step"])
        window, first, reference = (int(row[x]) for x in ("window", "n_first", "reference"))
        expand = bool(row["expand"])
        pattern = LVSA(window, first, reference, float(row["sparsity_scale"]), None, expand)
        interval = pattern.interval_on(frames)
        found.append(interval == row["auto_kfi"])
        offsets.append(step % interval == row["offset=step%kfi"])
        keep = pattern.keep_frames(frames, step)
        packed = vectors["masks_packed"][start : start + count]
        start += count
        wrong += (np.unpackbits(packed, count=frames**2) != keep.reshape(-1)).sum()
        wrong += keep.sum() != row["attended pairs"]
    yield same("interval", found, np.ones(len(found), bool))
    yield same("offset", offsets, np.ones(len(offsets), bool))
    yield same("frames", wrong, 0)


def lvsa_attention(vectors):
    """Attention on the tokens of the frames, in blocks of one frame."""
    frames, size, window, first, reference = (
        int(vectors[x]) for x in ("T", "tokens_per_frame", "window", "n_first", "reference")
    )
    pattern = LVSA(window, first, reference, block=size)
    grid, step = VideoGrid(frames, 1, size), int(vectors["step"])
    yield same("interval", pattern.interval_on(frames), vectors["auto_kfi"])
    yield same("frames", pattern.keep_frames(frames, step), vectors["frame_mask"])
    qkv = (jnp.asarray(np.moveaxis(vectors[x], 1, 2), np.float32) for x in "qkv")
    out = attend(pattern, *qkv, (), StepContext(grid, step=step)).out
    roundings = softmax_roundings(vectors["q"], vectors["k"])
    yield close("out", jnp.moveaxis(out, 1, 2), vectors["out"], roundings)


FAMILIES = {
    "radial_masks": radial_masks,
    "radial_attn": radial_attention,
    "lvsa_frames": lvsa_frames,
    "lvsa_attn": lvsa_attention,
}
