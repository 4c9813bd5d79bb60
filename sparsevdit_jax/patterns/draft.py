"""Draft: a share of all cell pairs of a head, by one threshold over its pooled map (DraftAttention)."""

import dataclasses

import numpy as np

from pallas_kernels._values import flag, wholes
from sparsevdit_jax.block_rules import keep_over_head, video_mask
from sparsevdit_jax.method import Method
from sparsevdit_jax.pooled import PooledPattern, pooled_scores, video_weights
from sparsevdit_jax.selection import by_head, densities, round_down
from sparsevdit_jax.token_order import TokenOrder


@dataclasses.dataclass(frozen=True)
class Draft(PooledPattern):
    """The cell pairs of most weight in the draft map of a head: softmax of mean query and mean key.

    One threshold holds for all rows of a head, so rows with sharp attention keep few cells and a row
    may keep none. Of n pairs int((1 - density) n) - 1 are dropped, and ties at the threshold stay.

    Reference: DraftAttention (arXiv 2505.14708) as shawnricecake/draft-attention has it, whose count
    is one more than the paper's share. `first_frame` and `own_frame` are LightX2V's additions.
    Differs: cells need not divide the latent grid, and text is kept as rows and columns where a model has
    it before the video too.

    Attributes:
      density: share of the cell pairs; a tuple with one for each head is a budget for each. Where a
        schedule gives densities, they take its place.
      cell: rows and columns of a cell, in tokens.
      first_frame: every cell reads the first frame.
      own_frame: every cell reads its own frame, so that no row is empty.
    """

    density: float | tuple[float, ...] = 0.25
    cell: tuple[int, int] = (8, 16)
    first_frame: bool = False
    own_frame: bool = False

    def __post_init__(self):
        object.__setattr__(self, "density", densities(self.density))
        remedy = "give its rows and columns in tokens"
        object.__setattr__(self, "cell", wholes("cell", self.cell, 1, count=2, remedy=remedy))
        for name in ("first_frame", "own_frame"):
            object.__setattr__(self, name, flag(name, getattr(self, name)))

    def token_order(self, grid) -> TokenOrder:
        """Cells of a frame in raster order, frame after frame."""
        rows, columns = self.cell
        return TokenOrder(grid, rows * columns, (1, rows, columns))

    def choose(self, q, k, order, ctx):
        """The pairs that the threshold leaves, and the frames that are always read."""
        weights = video_weights(pooled_scores(q, k, order, ctx), order)
        pairs = order.num_video_blocks**2
        dropped = by_head(self.density, ctx, lambda d: round_down((1 - d) * pairs))
        keep = keep_over_head(weights, dropped)
        frame = np.arange(order.num_video_blocks) // (order.tiles[1] * order.tiles[2])
        if self.first_frame:
            keep = keep | (frame == 0)[None, None, None]
        if self.own_frame:
            keep = keep | (frame[:, None] == frame[None])[None, None]
        return video_mask(keep, order)


def _for_grid(grid, num_heads, layer, density=0.25):
    """Without text a row could be empty, so LightX2V's frames are read; cells lie along the frame."""
    del num_heads, layer
    bare = not grid.text_len
    cell = (8, 16) if grid.height < grid.width else (16, 8)
    return Draft(density, cell, first_frame=bare, own_frame=bare)


METHODS = (
    Method(
        name="draft",
        title="DraftAttention",
        source=(
            "shawnricecake/draft-attention; LightX2V's cells, frames and dense first layer for models "
            "without text in the sequence; sparsity 0.9 on HunyuanVideo, 0.75 elsewhere"
        ),
        pattern=_for_grid,
        models={
            "wan": dict(dense_layers=lambda num_layers: (0,)),
            "hunyuanvideo": dict(
                pattern=lambda grid, num_heads, layer: _for_grid(grid, num_heads, layer, 0.1)
            ),
        },
    ),
)
