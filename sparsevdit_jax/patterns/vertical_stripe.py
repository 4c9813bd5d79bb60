"""VerticalStripe: a few key columns seen by all queries, Sparse-vDiT's mode M4 (arXiv 2506.03065)."""

import dataclasses

import numpy as np

from pallas_kernels._values import share, whole, wholes
from sparsevdit_jax.grid import VideoGrid
from sparsevdit_jax.masks.blocks import video_blocks_per_row, with_text
from sparsevdit_jax.pattern import StaticPattern
from sparsevdit_jax.token_order import TokenOrder


@dataclasses.dataclass(frozen=True)
class VerticalStripe(StaticPattern):
    """Every query attends text, the first frame and evenly spread key blocks, or given ones.

    Differs from the paper, which publishes no layout of stripes: these are text, the first frame, and
    every g-th further key block, with g chosen by density.

    Attributes:
      density: kept / all token pairs of the whole mask, text included; counted within half a block
        per row, see `masks.blocks.video_blocks_per_row`. Not used when `columns` are given.
      block: tokens in a block.
      columns: video key blocks to keep (from 0, frame-major order), instead of those made from
        `density`.
    """

    density: float = 0.25
    block: int = 64
    columns: tuple[int, ...] | None = None

    def __post_init__(self):
        density = share("density", self.density, remedy="kept token pairs / all pairs")
        object.__setattr__(self, "density", density)
        block = whole("block", self.block, 1, remedy="it counts tokens")
        object.__setattr__(self, "block", block)
        if self.columns is None:
            return
        columns = wholes("columns", self.columns, remedy="number video key blocks from 0")
        if not columns:
            raise ValueError("columns=() must name at least one video key block; Skip keeps none")
        object.__setattr__(self, "columns", tuple(sorted(set(columns))))

    @staticmethod
    def least_density(grid: VideoGrid, block: int = 64) -> float:
        """The smallest density on `grid`: text and the first frame alone, 1 for a clip of one frame."""
        order = TokenOrder(grid, block)
        first = _first_frame_blocks(order) / order.num_video_blocks
        return min(1.0, 1 - (1 - first) * (grid.num_video_tokens / grid.num_tokens) ** 2)

    def token_order(self, grid):
        """Raster order."""
        return TokenOrder(grid, self.block)

    def keep_blocks(self, grid, num_heads):
        """Bool [1, N, N]."""
        del num_heads
        order = self.token_order(grid)
        keep = np.zeros((order.num_video_blocks, order.num_video_blocks), bool)
        keep[:, self._key_blocks(order)] = True
        return with_text(keep, order)[None]

    def _key_blocks(self, order):
        count, grid = order.num_video_blocks, order.grid
        if self.columns is not None:
            if self.columns[-1] >= count:
                raise ValueError(
                    f"columns hold {self.columns[-1]}, but {grid} has {count} video blocks of "
                    f"{self.block} tokens, 0..{count - 1}; name columns of this grid"
                )
            return np.asarray(self.columns)
        total = video_blocks_per_row(order, self.density)
        first = _first_frame_blocks(order)
        if total < first:
            raise ValueError(
                f"density={self.density} keeps {total} key blocks, but the first frame of {grid} "
                f"has {first}; "
                f"raise the density above {self.least_density(grid, self.block):.3f} "
                "(VerticalStripe.least_density), or name the columns"
            )
        spread = (np.arange(total - first) + 0.5) * (count - first) / max(total - first, 1)
        return np.concatenate([np.arange(first), first + spread.astype(int)])


def _first_frame_blocks(order):
    return -(-order.grid.height * order.grid.width // order.block)
