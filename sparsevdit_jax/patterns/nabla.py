"""NABLA: cells that hold a share of the pooled attention, and a window around each (Kandinsky 5)."""

import dataclasses

import numpy as np

from pallas_kernels._values import share, wholes
from sparsevdit_jax.block_rules import keep_share, video_mask
from sparsevdit_jax.masks.blocks import cut_window
from sparsevdit_jax.method import Method
from sparsevdit_jax.pooled import PooledPattern, pooled_scores, video_weights
from sparsevdit_jax.token_order import TokenOrder


@dataclasses.dataclass(frozen=True)
class NABLA(PooledPattern):
    """Each cell of a frame reads the cells of most weight, and those of a window around it.

    The weights are a softmax over cells of the products of mean query and mean key. A row keeps the
    heaviest of them until they hold `mass`, the one that passes it too. The window is cut at the
    border of the latent grid, not shifted inwards as STA's is.

    Reference: NABLA (arXiv 2507.13546) as kandinskylab/kandinsky-5 has it. Differs: cells need not
    divide the latent grid, and text is kept (Kandinsky has none in this attention).

    Attributes:
      mass: share of a row's pooled attention that the kept cells hold (P of the paper; the authors
        use 0.8 and 0.9).
      window: frames, rows, columns of the window, in frames and cells; an even number acts as the
        next odd one. None: no window.
      cell: rows and columns of a cell, in tokens.
    """

    mass: float = 0.9
    window: tuple[int, int, int] | None = (11, 3, 3)
    cell: tuple[int, int] = (8, 8)

    takes_density = False

    def __post_init__(self):
        remedy = "share of a row's pooled attention"
        object.__setattr__(self, "mass", share("mass", self.mass, remedy=remedy))
        remedy = "give its rows and columns in tokens"
        object.__setattr__(self, "cell", wholes("cell", self.cell, 1, count=2, remedy=remedy))
        if self.window is not None:
            remedy = "give frames, and rows and columns in cells"
            window = wholes("window", self.window, 1, count=3, remedy=remedy)
            object.__setattr__(self, "window", window)

    def token_order(self, grid) -> TokenOrder:
        """Cells of a frame in raster order, frame after frame."""
        rows, columns = self.cell
        return TokenOrder(grid, rows * columns, (1, rows, columns))

    def choose(self, q, k, order, ctx):
        """The heaviest cells and the window."""
        weights = video_weights(pooled_scores(q, k, order, ctx), order)
        keep = keep_share(weights, self.mass, crossing=True)
        if self.window is not None:
            keep = keep | self.window_blocks(order)[None, None]
        return video_mask(keep, order)

    def window_blocks(self, order: TokenOrder) -> np.ndarray:
        """The cells of each cell's window, bool [Nv, Nv]."""
        keep = np.ones((1, 1), bool)
        for count, window in zip(order.tiles, self.window or order.tiles, strict=True):
            keep = np.kron(keep, cut_window(count, window))
        return keep


METHODS = (
    Method(
        name="nabla",
        title="NABLA",
        source="kandinskylab/kandinsky-5: P 0.9 and a window of 11 frames, 3 x 3 cells of 8 x 8",
        pattern=lambda grid, num_heads, layer: NABLA(),
        trained=True,
    ),
)
