"""Where blocks lie: in the video, along an axis of a picture, under a pixel."""

import math
from collections.abc import Sequence

import numpy as np

from sparsevdit_jax.token_order import TokenOrder, slot_positions

TEXT_PIXELS = 4
"""Pixels that text has at least, all of it together."""


def query_block(order: TokenOrder, token: tuple[int, int, int]) -> int:
    """The block that holds the video token (frame, row, column)."""
    shape = order.grid.shape
    if len(token) != 3 or any(not 0 <= t < n for t, n in zip(token, shape, strict=True)):
        raise ValueError(f"{token=} must be (frame, row, column) inside the video {shape}")
    return int(video_blocks(order)[tuple(token)])


def video_blocks(order: TokenOrder) -> np.ndarray:
    """Block of each video token, int [F, Y, X]."""
    start, count = order.grid.video_start, order.grid.num_video_tokens
    blocks = slot_positions(order)[start : start + count] // order.block
    return blocks.reshape(order.grid.shape)


def check_matrix(matrix, order: TokenOrder | None, name: str) -> np.ndarray:
    """`matrix` as a numpy array; ValueError unless it is [Nq, Nk] and fits `order`."""
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(
            f"{name} has shape {matrix.shape}; it must be [query blocks, key blocks] of one head: "
            "index the batch row and the head first"
        )
    if order is not None and matrix.shape != (order.num_blocks,) * 2:
        raise ValueError(
            f"{name} {matrix.shape} does not fit {order}, which has {order.num_blocks} blocks; "
            "give the order that the mask was made in"
        )
    return matrix


def real_lengths(shape, order: TokenOrder | None, text_lengths=None) -> list[np.ndarray]:
    """Real tokens of each block, int [N], on the query and the key axis; ones without an order."""
    if order is None:
        return [np.ones(n, int) for n in shape]
    text = None if text_lengths is None else np.asarray(text_lengths, np.int32).reshape(1)
    return [np.asarray(order.lengths(text))[0, 0].astype(int)] * 2


def block_layout(matrix, order: TokenOrder | None, size: int, text_lengths=None):
    """Pixel edges of the query and the key axis (`block_edges`), and the pixels of a full block.

    Text is stretched to `TEXT_PIXELS` where it would be thinner: at production sizes it is one
    block of hundreds, and must be seen.
    """
    lengths = real_lengths(matrix.shape, order, text_lengths)
    full = order.block if order else 1
    per_block = pixels_per_block(lengths, size)
    longest = max(int(n.sum()) for n in lengths)
    sizes = [max(1, math.floor(size * int(n.sum()) / longest + 0.5)) for n in lengths]
    edges = [block_edges(n, per_block, full, s) for n, s in zip(lengths, sizes, strict=True)]
    if order is not None and order.num_text_blocks:
        edges = [_widen_text(e, order.num_video_blocks) for e in edges]
    return edges, per_block


def _widen_text(edges, first):
    """`edges` with at least `TEXT_PIXELS` for text, if it has any, from a whole pixel on."""
    start, text = math.floor(edges[first] + 0.5), edges[first:] - edges[first]
    if not text[-1]:
        return edges
    scale = max(1, math.ceil(TEXT_PIXELS / text[-1]))
    return np.r_[edges[:first] * (start / edges[first]), start + text * scale]


def frame_starts(order: TokenOrder) -> np.ndarray:
    """Where the slowest axis of the order steps, in blocks from the first, fractions allowed; a path
    has no such axis.
    """
    if order.path is not None:
        return np.zeros(0)
    if order.tile:
        return np.arange(1, order.tiles[0]) * (order.num_video_blocks // order.tiles[0])
    steps = order.grid.shape[order.axes[0]]
    return np.arange(1, steps) * (order.grid.num_video_tokens / steps / order.block)


def pixels_per_block(lengths: Sequence[np.ndarray], size: int) -> int:
    """Pixels of a full block that bring the longest axis nearest to `size`; 0: less than 3/4."""
    if size < 1:
        raise ValueError(f"{size=} must be a positive number of pixels")
    full = max(int(n.max(initial=1)) for n in lengths)
    fitting = size * full / max(1, *(int(n.sum()) for n in lengths))
    return max(1, math.floor(fitting + 0.5)) if fitting >= 0.75 else 0


def block_edges(lengths: np.ndarray, per_block: int, full: int, size: int) -> np.ndarray:
    """Where blocks begin and end, in pixels, float64 [N + 1].

    With a pixel or more for a full block the edges are whole numbers, so that blocks stay sharp: a
    full block has `per_block` pixels, a shorter one its share, at least one, and one of no tokens
    none. Otherwise (`per_block` 0) the axis is stretched over `size` pixels and blocks share them.
    """
    if not per_block:
        return np.r_[0, np.cumsum(lengths)] * (size / max(int(lengths.sum()), 1))
    widths = np.maximum(1, np.floor(lengths * per_block / full + 0.5)) * (lengths > 0)
    return np.r_[0, np.cumsum(widths)]


def paint(values: np.ndarray, edges_q: np.ndarray, edges_kv: np.ndarray) -> np.ndarray:
    """Values of blocks [Nq, Nk, ...] as pixels, each the mean over its area: [h, w, ...]."""
    values = np.asarray(values, np.float64)
    for axis, edges in enumerate((edges_q, edges_kv)):
        if (edges == np.floor(edges)).all():
            values = np.repeat(values, np.diff(edges).astype(int), axis=axis)
            continue
        start = np.arange(math.ceil(edges[-1] - 1e-6))[:, None]
        share = np.minimum(start + 1, edges[None, 1:]) - np.maximum(start, edges[None, :-1])
        share = np.maximum(share, 0)
        share /= share.sum(-1, keepdims=True)
        values = np.moveaxis(np.tensordot(share, values, axes=(1, axis)), 0, axis)
    return values
