"""GlobalFrames: each frame sees itself, and a few frames see and are seen by all (Efficient-vDiT, arXiv 2502.06155)."""

import dataclasses

import numpy as np

from pallas_kernels._values import whole
from sparsevdit_jax.masks.blocks import with_text
from sparsevdit_jax.masks.frame_bands import fitted_block, frame_blocks
from sparsevdit_jax.method import Method
from sparsevdit_jax.pattern import StaticPattern
from sparsevdit_jax.token_order import TokenOrder


@dataclasses.dataclass(frozen=True)
class GlobalFrames(StaticPattern):
    """Efficient-vDiT's attention tile "k : F - k": the frame diagonal, and k of F frames global.

    Every ceil(F / k)-th frame from the first on is global: its queries see all frames, and all frames see
    it. By whole frames (F - k)(F - k - 1) / F**2 of the pairs are left out. A block of tokens on a border
    of frames keeps what either of its frames keeps; so counted, in blocks of 128, all nine sparsities that
    the paper prints come out (`experiments.paper_figures`).

    Differs from the paper, whose code was not to be had: which frames are global is read from those
    figures. The paper chooses k for each layer by a search for the sparsest tile whose loss stays below
    a bound, and then distils the model; `sparsevdit_jax.search` chooses among such patterns for each
    head.

    Attributes:
      count: global frames, k. With as many as there are frames, or more, attention is full. Where k does
        not divide F, fewer may be global: the first of each ceil(F / k).
      block: tokens in a block.
    """

    count: int
    block: int = 128

    def __post_init__(self):
        object.__setattr__(self, "count", whole("count", self.count, 1, remedy="it counts frames"))
        object.__setattr__(self, "block", whole("block", self.block, 1, remedy="it counts tokens"))

    def token_order(self, grid):
        """Raster order."""
        return TokenOrder(grid, self.block)

    def keep_frames(self, frames: int) -> np.ndarray:
        """Frame pairs that are kept, bool [F, F]."""
        keep = np.eye(frames, dtype=bool)
        stride = -(-frames // self.count)
        keep[::stride], keep[:, ::stride] = True, True
        return keep

    def keep_blocks(self, grid, num_heads):
        """Bool [1, N, N]."""
        del num_heads
        keep = frame_blocks(self.keep_frames(grid.frames), grid, self.block)
        return with_text(keep, self.token_order(grid))[None]


METHODS = (
    Method(
        name="efficient-vdit",
        title="Efficient-vDiT",
        source="arXiv 2502.06155. Its search of k for each layer and its distillation are left out: a quarter of "
        "the frames is global in every layer",
        pattern=lambda grid, num_heads, layer: GlobalFrames(
            max(1, round(grid.frames / 4)), fitted_block(grid)
        ),
        trained=True,
    ),
)
