"""Keep matrices over blocks, on the host with numpy: windows, bands, neighbours, text."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels._values import share
from sparsevdit_jax.grid import VideoGrid
from sparsevdit_jax.token_order import TokenOrder, slot_positions


def axis_window(count: int, window: int, even_window: str = "paper") -> np.ndarray:
    """Tiles that each tile sees along one axis of `count` tiles, bool [count, count].

    The window is shifted inwards at the borders, never cut. Rule "paper" keeps ``window // 2``
    tiles on both sides of its centre, so that an even window below `count` keeps one tile more than
    it says; "exact" keeps ``window // 2`` on the left and one fewer on the right. A window of
    `count` or more keeps everything.

    Reference: STA (arXiv 2502.04507), Algorithm 3. Differs: "exact", which is attention-gym's
    reading.
    """
    left = window // 2
    right = left if even_window == "paper" or window % 2 else left - 1
    if window >= count:
        return np.ones((count, count), bool)
    query, key = np.arange(count)[:, None], np.arange(count)[None, :]
    centre = np.maximum(np.minimum(query, count - 1 - right), left)
    return (key >= centre - left) & (key <= centre + right)


def cut_window(count: int, window: int) -> np.ndarray:
    """Tiles at most ``window // 2`` away along an axis of `count` tiles, bool [count, count]: a
    window that the border cuts.
    """
    tile = np.arange(count)
    return np.abs(tile[:, None] - tile[None]) <= window // 2


@functools.lru_cache(maxsize=16)
def touching(order: TokenOrder) -> np.ndarray:
    """Whether two video blocks hold tokens that touch (26 neighbours) or are one: bool [Nv, Nv]."""
    start, grid, count = order.grid.video_start, order.grid, order.num_video_blocks
    block = slot_positions(order)[start : start + grid.num_video_tokens] // order.block
    block = block.reshape(grid.shape)
    keep = np.eye(count, dtype=bool)
    for step in itertools.product((-1, 0, 1), repeat=3):
        here = tuple(
            slice(max(0, -s), n - max(0, s)) for s, n in zip(step, grid.shape, strict=True)
        )
        there = tuple(
            slice(max(0, s), n - max(0, -s)) for s, n in zip(step, grid.shape, strict=True)
        )
        keep[block[here], block[there]] = True
    return keep


def band(count: int, width: int) -> np.ndarray:
    """Diagonal band in which every row keeps exactly `width` of `count` blocks, bool [count,
    count].

    Row i keeps ``width // 2`` blocks before block i and the rest from it on, shifted inwards at the
    borders, so that all rows cost the same.
    """
    start = np.clip(np.arange(count) - width // 2, 0, count - width)[:, None]
    key = np.arange(count)[None, :]
    return (key >= start) & (key < start + width)


def with_text(keep: Any, order: TokenOrder) -> Any:
    """`keep` [..., Nv, Nv] over video blocks, with every text row and column kept: [..., N, N].

    Traced where `keep` is.
    """
    extra = order.num_text_blocks
    margins = [(0, 0)] * (keep.ndim - 2) + [(0, extra)] * 2
    xp = jnp if isinstance(keep, jax.Array) else np
    return xp.pad(keep, margins, constant_values=True)


def video_blocks_per_row(order: TokenOrder, density: float, least: int = 1) -> int:
    """Video blocks that each video row keeps for the whole mask, text included, to have `density`.

    With Lv video and L tokens in all, text keeps ``L**2 - Lv**2`` pairs and a video row's block is
    worth ``Lv**2 / Nv``; the count is the nearest integer (half up) in `least`..Nv. The counted
    density is therefore within ``1 / (2 Nv)`` of `density`, but for the raggedness of border blocks
    and for targets beyond those limits.
    """
    density = share("density", density, remedy="kept token pairs / all pairs")
    video, tokens, count = (
        order.grid.num_video_tokens,
        order.grid.num_tokens,
        order.num_video_blocks,
    )
    pairs = density * tokens**2 - (tokens**2 - video**2)
    return int(np.clip(np.floor(pairs * count / video**2 + 0.5), least, count))


def band_width(grid: VideoGrid, density: Any) -> Any:
    """Half width, in frames, of the band that with all text columns has `density`: N (1 - sqrt(1 - s)) / P.

    N counts all tokens, P those of a frame, and s = density - 2 text / N. Negative where text alone is
    more than `density`. Traced where `density` is. Reference: SVG (arXiv 2502.01776), its code.
    """
    tokens = grid.num_tokens
    rest = density - 2 * grid.text_len / tokens
    root = (jnp if isinstance(rest, jax.Array) else np).sqrt(1 - rest)
    return tokens * (1 - root) / (grid.height * grid.width)
