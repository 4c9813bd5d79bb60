"""Diagonal and MultiDiagonal: bands of blocks, Sparse-vDiT's modes M2 and M3 (arXiv 2506.03065)."""

import dataclasses

from pallas_kernels._values import share, whole
from sparsevdit_jax.masks.blocks import band, video_blocks_per_row, with_text
from sparsevdit_jax.pattern import StaticPattern
from sparsevdit_jax.token_order import TokenOrder

SITE_MAJOR = (1, 2, 0)


@dataclasses.dataclass(frozen=True)
class Diagonal(StaticPattern):
    """A band along the diagonal in frame-major order: the same and the near frames (M2).

    Differs from the paper, which publishes neither widths nor densities: the band is as wide as a
    declared density asks, every row keeps the same number of blocks (shifted inwards at the borders),
    and text is always kept.

    Attributes:
      density: kept / all token pairs of the whole mask, text included; counted within half a block
        per row, see `masks.blocks.video_blocks_per_row` for the formula.
      block: tokens in a block.
    """

    density: float = 0.25
    block: int = 64

    def __post_init__(self):
        _check_band(self)

    def token_order(self, grid):
        """Raster order."""
        return TokenOrder(grid, self.block)

    def keep_blocks(self, grid, num_heads):
        """Bool [1, N, N]."""
        del num_heads
        return _keep_band(self.token_order(grid), self.density)


@dataclasses.dataclass(frozen=True)
class MultiDiagonal(StaticPattern):
    """A band in site-major order: the same and the near sites in all frames (M3).

    It equals `Diagonal` on video tokens permuted to ``site * frames + frame``; text stays where it
    is. Differs from the paper as `Diagonal` does.

    Attributes:
      density: as in `Diagonal`.
      block: tokens in a block.
    """

    density: float = 0.25
    block: int = 64

    def __post_init__(self):
        _check_band(self)

    def token_order(self, grid):
        """Site-major order: the frames of a site are neighbours."""
        return TokenOrder(grid, self.block, axes=SITE_MAJOR)

    def keep_blocks(self, grid, num_heads):
        """Bool [1, N, N]."""
        del num_heads
        return _keep_band(self.token_order(grid), self.density)


def _keep_band(order, density):
    width = video_blocks_per_row(order, density)
    return with_text(band(order.num_video_blocks, width), order)[None]


def _check_band(pattern):
    density = share("density", pattern.density, remedy="kept token pairs / all pairs")
    object.__setattr__(pattern, "density", density)
    block = whole("block", pattern.block, 1, remedy="it counts tokens")
    object.__setattr__(pattern, "block", block)
