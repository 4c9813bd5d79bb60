"""Masks in characters, for terminals and docstrings."""

import numpy as np

from sparsevdit_jax.masks.layout import check_matrix, paint, query_block
from sparsevdit_jax.token_order import TokenOrder


def ascii_mask(keep, order: TokenOrder | None = None, *, width: int = 64) -> str:
    """A mask in characters: "." nothing kept, ":" and "+" some, "#" all; bars before the text.

    A row of characters is twice as high as wide, so a block has at least two characters side by
    side where there is room, and rows are joined where there is none.
    """
    keep = check_matrix(keep, order, "keep").astype(np.float64)
    lines = min(keep.shape[0], max(1, width * keep.shape[0] // (2 * max(keep.shape))))
    across = max(1, width // keep.shape[1]) * keep.shape[1]
    if keep.shape[1] * 2 <= width:
        lines, across = keep.shape[0], 2 * keep.shape[1]
    shape = lines, min(across, width)
    edges = [np.arange(n + 1) * (m / n) for n, m in zip(keep.shape, shape, strict=True)]
    cover = paint(keep, *edges)
    signs = np.where(cover > 0.999, "#", np.where(cover > 0.5, "+", np.where(cover > 0, ":", ".")))
    text = ["".join(line) for line in signs]
    if order is not None and order.num_text_blocks:
        row, column = (round(float(e[order.num_video_blocks])) for e in edges)
        text = [f"{line[:column]}|{line[column:]}" for line in text]
        text.insert(row, "-" * column + "+" + "-" * (shape[1] - column))
    return "\n".join(text)


def ascii_window(keep, order: TokenOrder, token: tuple[int, int, int]) -> str:
    """What the tile of `token` reads, a character per tile and a panel per frame of tiles.

    "Q" is the tile that asks, "#" is read, "." is not. Only for tile orders.
    """
    keep, mine = check_matrix(keep, order, "keep").astype(bool), query_block(order, token)
    read = np.where(keep[mine, : order.num_video_blocks], "#", ".")
    if mine < len(read):
        read[mine] = "Q"
    frames = read.reshape(order.tiles)
    return "\n".join("  ".join("".join(f[y]) for f in frames) for y in range(order.tiles[1]))
