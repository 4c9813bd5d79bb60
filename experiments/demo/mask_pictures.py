"""Pictures for the page: each method's masks, and the attention that was measured, by layer and head."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from experiments.demo.compared_methods import Method
from experiments.demo.masks_by_head import HeadMask
from sparsevdit_jax import Phase, StepContext, TokenOrder, VideoGrid, metrics
from sparsevdit_jax.masks import draw

BLOCK = 64  # tokens in a block of the attention maps
SIZE = 130  # pixels of one head's picture


class Album:
    """Writes PNG files into a folder and collects the page's entries."""

    def __init__(self, folder: Path):
        self.folder, self.entries = folder, []

    def add(self, image: np.ndarray, group: str, method: str, title: str, caption: str) -> None:
        """One picture; `group` is "masks" or "attention"."""
        name = f"{group}_{method}_{len(self.entries)}.png"
        draw.write_png(self.folder / name, image)
        entry = dict(file=name, title=title, caption=caption, group=group, method=method)
        self.entries.append(entry)


def draw_all(
    folder: Path,
    methods: Sequence[Method],
    masks: Mapping[str, Sequence[list[HeadMask]]],
    layers: Sequence,
    grid: VideoGrid,
) -> list[dict]:
    """Writes all pictures into `folder` and returns their entries for the page.

    Args:
      folder: where to write.
      methods: what was run; dense has no masks.
      masks: of every layer's heads, by the method's key.
      layers: q, k, v [B, L, H, D] of every layer at one denoising step.
      grid: of the sequence.
    """
    album, raster = Album(folder), TokenOrder(grid, BLOCK)
    ctx = StepContext(grid, Phase.REUSE)
    map_of = jax.jit(metrics.attention_map, static_argnames="order")
    maps = [np.asarray(map_of(q, k, ctx, order=raster))[0] for q, k, _ in layers]
    low, high = draw.scale_of(np.stack(maps))

    def attention_image(mass, keep):
        return draw.attention_image(mass, raster, keep=keep, size=SIZE, low=low, high=high)

    def sheet(keeps):
        """Attention of all layers (rows) and heads, under the masks `keeps` or without."""
        rows = zip(maps, keeps or [[None] * len(maps[0])] * len(maps), strict=True)
        return draw.panels(
            [[attention_image(*p) for p in zip(*row, strict=True)] for row in rows],
            row_labels=[f"layer {i}" for i in range(len(maps))],
            column_labels=[f"head {i}" for i in range(len(maps[0]))],
            scale=(low, high),
        )

    album.add(
        sheet(None),
        "attention",
        "dense",
        "Measured attention, layer by head",
        f"Mean probability that a token of one block gives to another block ({BLOCK} tokens each, frame by frame; "
        "dark is much, logarithmic). Dense attention in the middle of the run, conditional branch.",
    )
    for method in methods:
        if method.attention is None:
            continue
        rows = masks[method.key]
        keeps, orders = ([[mask[i] for mask in row] for row in rows] for i in (0, 1))
        album.add(
            draw.mask_grid(keeps, orders, size=SIZE),
            "masks",
            method.key,
            f"{method.label}: what each head reads",
            "Query blocks downwards, key blocks to the right, in the method's own token order. "
            "Below each: the share of token pairs that it computes.",
        )
        sparse = next((mask for row in rows for mask in row if mask[1] is not None), None)
        if sparse is not None:
            album.add(
                draw.window_image(*sparse, tuple(n // 2 for n in grid.shape)),
                "masks",
                method.key,
                f"{method.label}: what one block reads, seen in the video",
                "The first head that is sparse, of the first layer that has one.",
            )
        if all(order == raster for row in orders for order in row):
            album.add(
                sheet(keeps),
                "attention",
                method.key,
                f"{method.label}: the attention that it keeps",
                "The measured attention; what the mask drops has lost its colour.",
            )
    return album.entries
