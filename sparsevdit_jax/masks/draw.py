"""Pictures of masks and of measured attention: patterns are debugged by eye.

Images are numpy arrays, uint8 RGB [height, width, 3], made to be shown pixel for pixel on a light
page. Blocks are as long as they have real tokens. Plain images need numpy alone; labelled ones
(`mask_grid`, `window_image`, `panels`) and `write_png` need pillow, the extra `demo`.

    keep = pattern.keep_blocks(grid, num_heads)[head]
    order = pattern.token_order(grid)
    write_png("mask.png", mask_image(keep, order))
    print(ascii_mask(keep, order))
"""

from collections.abc import Sequence

import numpy as np

from sparsevdit_jax.masks import canvas
from sparsevdit_jax.masks.ascii import ascii_mask as ascii_mask
from sparsevdit_jax.masks.ascii import ascii_window as ascii_window
from sparsevdit_jax.masks.canvas import panels as panels
from sparsevdit_jax.masks.canvas import ramp as ramp
from sparsevdit_jax.masks.canvas import write_png as write_png
from sparsevdit_jax.masks.layout import (
    block_layout,
    check_matrix,
    frame_starts,
    paint,
    query_block,
    real_lengths,
    video_blocks,
)
from sparsevdit_jax.token_order import TokenOrder

_GRID_FROM = 6
"""Pixels of a block from which blocks are set apart by thin lines."""

_OUTLINE_FROM = 6
"""Pixels of a block from which a mask is outlined over attention."""


def mask_image(
    keep, order: TokenOrder | None = None, *, size: int = 640, text_lengths=None
) -> np.ndarray:
    """One head's mask: query blocks downwards, key blocks to the right, kept ones blue.

    Blocks that read or are text are orange, and a line parts them from the video. Fainter lines
    show where a new frame begins (a row of tiles' frames, for tile orders; a new row of sites, for
    site-major ones). With a pixel or more for each block all blocks are sharp; otherwise a pixel is
    the mean of the blocks under it.

    Args:
      keep: bool [Nq, Nk], of one head.
      order: the block order, for real lengths, text and frames; None: equal blocks, no text.
      size: pixels on the longer side, about: blocks have whole pixels, so it may be a third less
        or more. Blocks too short for a pixel still get one.
      text_lengths: real text tokens, int; None is all of the room.
    """
    keep = check_matrix(keep, order, "keep").astype(bool)
    edges, per_block = block_layout(keep, order, size, text_lengths)
    cover = paint(keep, *edges)[..., None]
    image = canvas.mix(canvas.DROPPED, canvas.KEPT, cover)
    if order is not None and order.num_text_blocks:
        text = round(edges[0][order.num_video_blocks])  # whole: no pixel lies over both
        for part in (np.s_[text:], np.s_[:text, text:]):
            image[part] = canvas.mix(canvas.TEXT_DROPPED, canvas.TEXT_KEPT, cover[part])
    if per_block >= _GRID_FROM:
        _rule(image, edges, [e[1:-1] for e in edges], canvas.PAPER, 0.55)
    _rule_frames(image, edges, order)
    return canvas.to_uint8(image)


def attention_image(
    mass,
    order: TokenOrder | None = None,
    *,
    keep=None,
    size: int = 640,
    low: float | None = None,
    high: float | None = None,
    text_lengths=None,
) -> np.ndarray:
    """Measured attention of one head between blocks, on a logarithmic scale, with a mask over it.

    Pale is little, dark is much (`ramp`). What the mask drops loses its colour and keeps its
    lightness; where blocks have six pixels or more what it keeps is outlined, too.

    Args:
      mass: float [Nq, Nk], such as one head of `metrics.attention_map`; zeros are the palest.
      order: as for `mask_image`.
      keep: bool [Nq, Nk], the mask, or None.
      size: as for `mask_image`.
      low: mass of the palest colour; None: a ten-thousandth of `high`.
      high: mass of the darkest colour; None: the largest. Set both to compare pictures.
      text_lengths: as for `mask_image`.
    """
    mass = np.asarray(check_matrix(mass, order, "mass"), np.float64)
    low, high = scale_of(mass, low, high)
    edges, per_block = block_layout(mass, order, size, text_lengths)
    pixels = np.maximum(paint(mass, *edges), low)
    level = np.clip(np.log(pixels / low) / np.log(high / low), 0, 1)
    image = canvas.ramp()[np.round(255 * level).astype(int)].astype(np.float64)
    if keep is not None:
        keep = check_matrix(keep, order, "keep").astype(bool)
        if keep.shape != mass.shape:
            raise ValueError(f"keep {keep.shape} and mass {mass.shape} must have one shape")
        shown = paint(keep, *edges)
        grey = image @ np.asarray([0.2126, 0.7152, 0.0722])
        image += (1 - shown)[..., None] * (grey[..., None] - image)
        if per_block >= _OUTLINE_FROM:
            image[_outline(shown > 0.5, 1 + (per_block >= 12))] = canvas.OUTLINE
    _rule_frames(image, edges, order)
    return canvas.to_uint8(image)


def scale_of(mass, low: float | None = None, high: float | None = None) -> tuple[float, float]:
    """(low, high) that `attention_image` takes for `mass`, to share or to show (`panels`)."""
    mass = np.asarray(mass, np.float64)
    if not np.isfinite(mass).all() or mass.min(initial=0) < 0:
        raise ValueError("mass must be finite and not negative; draw probabilities, not logits")
    high = float(mass.max(initial=0)) or 1.0 if high is None else float(high)
    low = 1e-4 * high if low is None else float(low)
    if not 0 < low < high:
        raise ValueError(f"{low=} and {high=} must satisfy 0 < low < high on a logarithmic scale")
    return low, high


def mask_grid(
    keeps: Sequence[Sequence],
    order: TokenOrder | Sequence[Sequence[TokenOrder | None]] | None = None,
    *,
    size: int = 128,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    captions: Sequence[Sequence[str]] | None = None,
    title: str = "",
) -> np.ndarray:
    """Masks of many heads: layers downwards, heads to the right, each with its density below it.

    Args:
      keeps: rows of bool [Nq, Nk] (a [layers, H, Nq, Nk] array will do); None leaves a place empty.
      order: the block order of all, or rows of one for each.
      size: pixels of a mask, as for `mask_image`.
      row_labels: "layer 0" and on when None.
      column_labels: "head 0" and on when None.
      captions: the share of token pairs kept when None; () for none.
      title: on top.
    """
    columns = max(len(row) for row in keeps)
    single = order is None or isinstance(order, TokenOrder)
    orders = [[order] * len(row) for row in keeps] if single else order
    pairs = [list(zip(row, line, strict=True)) for row, line in zip(keeps, orders, strict=True)]
    if row_labels is None:
        row_labels = [f"layer {i}" for i in range(len(pairs))]
    if column_labels is None:
        column_labels = [f"head {i}" for i in range(columns)]
    if captions is None:
        captions = [["" if k is None else f"{_share(k, o):.1%}" for k, o in row] for row in pairs]
    has_text = any(o is not None and o.num_text_blocks for row in pairs for _, o in row)
    legend = [("read", canvas.KEPT), ("not read", canvas.DROPPED)]
    return panels(
        [[None if k is None else mask_image(k, o, size=size) for k, o in row] for row in pairs],
        row_labels=row_labels,
        column_labels=column_labels,
        captions=captions,
        title=title,
        legend=[*legend, ("text", canvas.TEXT_KEPT)] if has_text else legend,
    )


def window_image(
    keep,
    order: TokenOrder,
    token: tuple[int, int, int],
    *,
    size: int = 160,
    columns: int | None = None,
    title: str = "",
) -> np.ndarray:
    """Which tokens of the video one block reads: a picture for each frame.

    The block of `token` is vermilion, the tokens that it reads are blue. Tile orders have one
    picture for all frames of a tile, with lines between tiles.

    Args:
      keep: bool [Nq, Nk], of one head.
      order: its block order.
      token: (frame, row, column) of a video token of the block that asks.
      size: about so many pixels across a frame; a token has a whole number of them.
      columns: pictures in a row; None: all, but at most eight.
      title: on top.
    """
    keep = check_matrix(keep, order, "keep").astype(bool)
    grid, mine, blocks = order.grid, query_block(order, token), video_blocks(order)
    colours = np.where(keep[mine][blocks][..., None], canvas.KEPT, canvas.DROPPED)
    colours[blocks == mine] = canvas.QUERY
    per_token = max(1, size // grid.width)
    tile = order.tile or (1, 0, 0)
    step = tile[0]
    pictures, captions = [], []
    for start in range(0, grid.frames, step):
        picture = np.kron(colours[start], np.ones((per_token, per_token, 1)))
        for axis in range(2 if order.tile else 0):
            at = np.arange(tile[axis + 1], grid.shape[axis + 1], tile[axis + 1])
            canvas.blend(picture, (slice(None),) * axis + (at * per_token,), canvas.PAPER, 0.8)
        pictures.append(canvas.to_uint8(picture))
        last = min(start + step, grid.frames) - 1
        captions.append(f"frame {start}" if last == start else f"frames {start}-{last}")
    columns = columns or min(len(pictures), 8)
    rows = range(0, len(pictures), columns)
    legend = [("asks", canvas.QUERY), ("is read", canvas.KEPT), ("is not", canvas.DROPPED)]
    if order.num_text_blocks:
        share = keep[mine, order.num_video_blocks :].mean()
        colour = canvas.TEXT_KEPT if share else canvas.TEXT_DROPPED
        legend.append((f"text: {share:.0%} read", colour))
    return panels(
        [pictures[i : i + columns] for i in rows],
        captions=[captions[i : i + columns] for i in rows],
        title=title,
        legend=legend,
    )


def _share(keep, order):
    q, kv = real_lengths(np.shape(keep), order)
    return float(q @ np.asarray(keep, np.float64) @ kv / (q.sum() * kv.sum()))


def _rule(image, edges, positions, colour, strength):
    for axis, at in enumerate(positions):
        at = np.unique(np.floor(np.asarray(at) + 0.5).astype(int))
        at = at[(at > 0) & (at < image.shape[axis])]
        canvas.blend(image, (slice(None),) * axis + (at,), colour, strength)


def _rule_frames(image, edges, order):
    if order is None:
        return
    edge, starts = edges[0], frame_starts(order)
    at = np.interp(starts, np.arange(len(edge)), edge)
    apart = edge[order.num_video_blocks] / (len(at) + 1)
    if len(at) and apart >= 8:
        _rule(image, edges, [at, at], canvas.INK, min(0.3, 0.06 + 0.005 * apart))
    if order.num_text_blocks:
        at = [edge[order.num_video_blocks]]
        _rule(image, edges, [at, at], canvas.INK, 0.8)


def _outline(kept, thickness):
    """The rim of kept pixels, `thickness` wide, inside them; the picture's border is a rim too."""
    inner = kept
    for _ in range(thickness):
        padded = np.pad(inner, 1)
        inner = inner & padded[2:, 1:-1] & padded[:-2, 1:-1] & padded[1:-1, 2:] & padded[1:-1, :-2]
    return kept & ~inner
