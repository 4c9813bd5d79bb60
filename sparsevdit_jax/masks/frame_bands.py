"""FrameBands: which tokens see which, as bands between frames, and the blocks that they make.

Everything is interval arithmetic: a clip of 33 frames of 3,600 tokens takes milliseconds, and no array of
all token pairs is made.
"""

import dataclasses

import jax
import numpy as np

from sparsevdit_jax.grid import VideoGrid


def fitted_block(grid: VideoGrid) -> int:
    """Tokens in a block of patterns made of frames: 128, or on a small latent grid the largest power of two
    that a frame holds twice, but 16 at least.
    """
    half = max(16, grid.height * grid.width // 2)
    return min(128, 1 << (half.bit_length() - 1))


def frame_blocks(keep, grid: VideoGrid, block: int):
    """Block pairs in raster order that hold a token pair of kept frames, bool [N, N] over video blocks.

    A block on a border of frames keeps what any of its frames keeps.

    Args:
      keep: bool [F, F], of query and key frames; where it is traced, so is the result.
      grid: the video.
      block: tokens in a block; the last may be ragged.
    """
    size, length = grid.height * grid.width, grid.num_video_tokens
    starts = np.arange(0, length, block)
    ends = np.minimum(starts + block, length) - 1
    frame = np.arange(grid.frames)
    touched = (starts[:, None] // size <= frame) & (frame <= ends[:, None] // size)
    touched = touched.astype(np.float32)
    with jax.default_matmul_precision("highest"):
        return touched @ keep.astype(np.float32) @ touched.T > 0


@dataclasses.dataclass(frozen=True, eq=False)
class FrameBands:
    """Token i of one frame sees token j of another where ``|i - j| <= widths[one, other]``.

    Tokens are numbered in the raster order of their frame.

    Attributes:
      size: tokens of a frame, P.
      widths: int [F, F], of query and key frames; -1 keeps nothing, ``size - 1`` and more everything.
    """

    size: int
    widths: np.ndarray

    def pairs(self) -> int:
        """Token pairs that are kept."""
        width = np.minimum(self.widths.astype(np.int64), self.size - 1)
        return int(np.where(width < 0, 0, self.size * (2 * width + 1) - width * (width + 1)).sum())

    def num_blocks(self, block: int) -> int:
        """Blocks of `block` tokens that hold the video; the last may be ragged."""
        return -(-len(self.widths) * self.size // block)

    def touched(self, block: int) -> np.ndarray:
        """Block pairs of which at least one token pair is kept, bool [N, N].

        A block on a border of frames keeps what either of its frames keeps.
        """
        return self._joined(block, -(-(self.size - 1) // block) + 1, lambda count: count(1) > 0)

    def crowded(self, block: int, rows: int, columns: tuple[int, int]) -> np.ndarray:
        """Block pairs in which most of a frame pair's columns are seen by many rows, bool [N, N].

        Of the key tokens that a query of the block sees in one frame pair, more than ``columns[0] /
        columns[1]`` are seen by at least `rows` queries. Each frame pair is judged alone, and a frame has
        ``ceil(P / block)`` blocks from the one that it begins in: what it has beyond them, which is where
        it begins inside of a block, is not looked at.
        """
        part, whole = columns

        def judge(count):
            return whole * count(rows) > part * count(1)

        return self._joined(block, -(-self.size // block), judge)

    def _joined(self, block, pieces, judge):
        """Bool [N, N] of what `judge` says of the first `pieces` blocks of each frame, any frame pair.

        `judge` gets a function: least -> int [F, pieces, pieces], the key tokens of every block of every
        key frame that at least `least` queries see of every block of one query frame.
        """
        total = self.num_blocks(block)
        keep = np.zeros((total, total), bool)
        starts = np.arange(len(self.widths)) * self.size
        first = starts // block  # block in which each frame begins
        edges = (first[:, None] + np.arange(pieces)) * block - starts[:, None]
        begins, ends = np.maximum(edges, 0), np.minimum(edges + block, self.size)
        for frame, width in enumerate(self.widths):
            top, bottom = begins[frame, None, :, None], ends[frame, None, :, None]
            left, right = begins[:, None], ends[:, None]
            width = width[:, None, None]

            def count(least, top=top, bottom=bottom, left=left, right=right, width=width):
                # Key j is seen by the queries [j - width, j + width]; they share `least` with [top, bottom)
                # for an interval of j, unless either is shorter than that.
                low = np.maximum(left, top + least - 1 - width)
                high = np.minimum(right, bottom + width - least + 1)
                able = (bottom - top >= least) & (2 * width + 1 >= least)
                return np.where(able, np.maximum(high - low, 0), 0)

            other, row, column = np.nonzero(judge(count))
            keep[first[frame] + row, first[other] + column] = True
        return keep
