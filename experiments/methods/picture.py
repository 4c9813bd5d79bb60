"""The picture of a method: one head's mask, and the keys that one query reads in the frames of the video."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.methods.reads import GRID, Reads

QUERY = (3, 7, 9)
"""Frame, row and column of the token whose keys are shown."""
KEPT, DROPPED, MARK = "#005aa0", "#e9ecf1", "#e69f00"
_ROW = 2.45  # inches of a row of pictures


def draw(rows: Sequence[tuple[str, Reads]], path: Path) -> None:
    """One row for each pattern: a title, its mask, and the keys of one query in each frame."""
    from matplotlib import pyplot
    from matplotlib.colors import ListedColormap, LogNorm

    colours = ListedColormap([DROPPED, KEPT])
    levels = pyplot.get_cmap("Blues", 10)  # few, for a small file
    figure = pyplot.figure(figsize=(7.0, _ROW * len(rows)))
    grid = figure.add_gridspec(
        len(rows), 2, width_ratios=(1, 2.08), left=0.035, right=0.995, wspace=0.06,
        top=1 - 0.28 / _ROW / len(rows), bottom=0.24 / _ROW / len(rows), hspace=0.27,
    )  # fmt: skip

    def show(cell, image):
        axis = figure.add_subplot(cell)
        if image.dtype == bool:
            axis.imshow(image, cmap=colours, vmin=0, vmax=1, interpolation="nearest", aspect="auto")
        else:
            scale = LogNorm(1e-5, 1e-2, clip=True)
            axis.imshow(image, cmap=levels, norm=scale, interpolation="nearest", aspect="auto")
        axis.set(xticks=[], yticks=[])
        return axis

    for number, (title, seen) in enumerate(rows):
        image, unit = (seen.tokens, "tokens") if seen.blocks is None else (seen.blocks, "blocks")
        axis = show(grid[number, 0], image if unit == "blocks" else _coarse(image))
        axis.set_xlabel(f"{unit} of keys", fontsize=7, labelpad=2)
        axis.set_ylabel(f"{unit} of queries", fontsize=7, labelpad=2)
        axis.set_title(title, fontsize=8.5, loc="left", pad=4)
        keys = _keys_of(seen)
        cells = grid[number, 1].subgridspec(2, len(keys) // 2, hspace=0.05, wspace=0.05)
        for frame, cell in enumerate(cells):
            axis = show(cell, keys[frame])
            if not frame:
                last = len(keys) - 1
                text = f"keys of one query, in frames 0 to {last}"
                axis.set_title(text, fontsize=8.5, loc="left", pad=4)
            if frame == QUERY[0]:
                axis.plot(QUERY[2], QUERY[1], "o", color=MARK, markersize=4)
    figure.savefig(path, dpi=100, metadata={"Software": None})
    pyplot.close(figure)


def _keys_of(seen: Reads) -> np.ndarray:
    query = GRID.video_start + np.ravel_multi_index(QUERY, GRID.shape)
    video = slice(GRID.video_start, GRID.video_start + GRID.num_video_tokens)
    return seen.tokens[query, video].reshape(GRID.shape)


def _coarse(weights: np.ndarray, step: int = 16) -> np.ndarray:
    """Means of squares of weights, of which a picture can show one in a pixel."""
    count = len(weights) // step * step
    return weights[:count, :count].reshape(count // step, step, count // step, step).mean((1, 3))
