"""Radial: windows between frames that halve as frames lie further apart (arXiv 2506.19852)."""

import dataclasses

import numpy as np

from pallas_kernels._values import flag, share, whole
from sparsevdit_jax.masks.blocks import with_text
from sparsevdit_jax.masks.frame_bands import FrameBands, fitted_block
from sparsevdit_jax.method import Method, warm_up
from sparsevdit_jax.pattern import StaticPattern
from sparsevdit_jax.token_order import TokenOrder

_RULES = ("code", "paper")


@dataclasses.dataclass(frozen=True)
class Radial(StaticPattern):
    """Frames see all of the frames beside them, and less of a frame the further away it is.

    A token sees the tokens of another frame whose place in the frame is near its own. With P tokens in
    a frame and d frames between the two:

    * "code" (mit-han-lab/radial-attention 72788d4, and LightX2V): d <= 1 whole; else the window is
      ``|i - j| <= max(base * decay, block)`` with ``base = 2**bits(P) / 2**bits(d)``. Where base is below
      `split`, only every (split / base)-th distance d is kept, of d = 1 too. A block pair is kept where,
      in one frame pair, more than 60 % of the keys that anything sees are seen by more than a third of a
      block of queries.
    * "paper": ``r = floor(log2 max(d, 1))``; where ``2**r <= P`` the window is ``|i - j| + 1 <= P / 2**r``,
      else the same place (i = j) of every ``ceil(2**r / P)``-th distance. A block pair with any token
      pair is kept.

    Follows mit-han-lab/radial-attention 72788d4. Differs from the code: it needs P * F to be a multiple of
    the block and fails or drops tokens elsewhere; here the ragged last block sees and is seen by all, as
    the block that text begins in is in the code. Blocks on the diagonal are always kept: where frames are
    much smaller than a block, the rule would leave rows empty. All text is kept, as rows and columns.

    Attributes:
      decay: factor of the code's windows, in (0, 1]: 0.95 for HunyuanVideo, 0.2 for Wan 2.1.
      sink: all queries see all of the first frame. The code does so for Wan, the paper always.
      rule: "code" or "paper".
      half_neighbours: frames side by side see ``|i - j| <= P // 2`` of each other, not all (LightX2V, for
        Wan); only with rule "code".
      block: tokens in a block, and the code's smallest window; the authors have 128.
      split: tokens; where the code's window would be less, it leaves frames out. The authors have 128
        for every block.
    """

    decay: float = 0.95
    sink: bool = False
    rule: str = "code"
    half_neighbours: bool = False
    block: int = 128
    split: int = 128

    def __post_init__(self):
        object.__setattr__(self, "decay", share("decay", self.decay, remedy="it shortens windows"))
        for name in ("block", "split"):
            value = whole(name, getattr(self, name), 1, remedy="it counts tokens")
            object.__setattr__(self, name, value)
        for name in ("sink", "half_neighbours"):
            object.__setattr__(self, name, flag(name, getattr(self, name)))
        if self.rule not in _RULES:
            raise ValueError(f"rule={self.rule!r} must be one of {_RULES}")
        if self.rule == "paper" and self.half_neighbours:
            raise ValueError("half_neighbours=True belongs to rule='code'; leave one of them out")

    def token_order(self, grid):
        """Raster order."""
        return TokenOrder(grid, self.block)

    def bands(self, grid) -> FrameBands:
        """The token pairs that the rule keeps before it is rounded to blocks; text aside."""
        size = grid.height * grid.width
        width = self._paper_width if self.rule == "paper" else self._code_width
        by_distance = np.array([width(size, distance) for distance in range(grid.frames)])
        frame = np.arange(grid.frames)
        widths = by_distance[np.abs(frame[:, None] - frame)]
        if self.sink:
            widths[:, 0] = size
        return FrameBands(size, widths)

    def keep_blocks(self, grid, num_heads):
        """Bool [1, N, N]."""
        del num_heads
        order, bands = self.token_order(grid), self.bands(grid)
        if self.rule == "paper":
            return with_text(bands.touched(self.block), order)[None]
        keep = bands.crowded(self.block, self.block // 3 + 1, (3, 5))
        keep |= np.eye(len(keep), dtype=bool)
        if grid.num_video_tokens % self.block:
            keep[-1] = keep[:, -1] = True
        return with_text(keep, order)[None]

    def _code_width(self, size, distance):
        base = 2.0 ** (size.bit_length() - distance.bit_length())
        if base < self.split and distance % int(self.split / base):
            return -1
        if distance <= 1:
            return size // 2 if distance and self.half_neighbours else size
        return int(max(base * self.decay, self.block))

    def _paper_width(self, size, distance):
        reach = 1 << (max(distance, 1).bit_length() - 1)
        if reach <= size:
            return size // reach - 1
        return -1 if distance % -(-reach // size) else 0


def _fitted(grid, **fields):
    block = fitted_block(grid)
    return Radial(block=block, split=block, **fields)


METHODS = (
    Method(
        name="radial",
        title="Radial Attention",
        source="arXiv 2506.19852; mit-han-lab/radial-attention 72788d4. CogVideoX, which it does not have, as "
        "HunyuanVideo",
        pattern=lambda grid, num_heads, layer: _fitted(grid),
        schedule=warm_up(0.24),
        models={
            "wan": dict(
                pattern=lambda grid, num_heads, layer: _fitted(grid, decay=0.2, sink=True),
                dense_layers=lambda num_layers: (0,),
            )
        },
    ),
)
