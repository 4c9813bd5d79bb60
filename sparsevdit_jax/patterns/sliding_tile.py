"""SlidingTile: a 3-D window that moves in steps of a tile (STA, arXiv 2502.04507, Algorithm 3).

All tokens of a tile are neighbours in block order, so each block pair is kept or dropped whole.
Differs from the paper: any canvas (tiles at the border may be ragged, the authors' must divide),
and the even-window rule is a choice.
"""

import dataclasses
import math
import warnings

import numpy as np

from sparsevdit_jax.masks.blocks import axis_window, with_text
from sparsevdit_jax.pattern import StaticPattern
from sparsevdit_jax.token_order import TokenOrder, check_tile

_EVEN_RULES = ("paper", "exact")


@dataclasses.dataclass(frozen=True)
class SlidingTile(StaticPattern):
    """Each tile attends the tiles of a window around it, shifted inwards at borders, and all text.

    Density of the video part: the product over the axes of min(window, tiles) / tiles, for odd or
    full windows on a canvas that the tile divides.

    Attributes:
      tile: frames, rows, columns of a tile, in tokens; its volume is the block size ((6, 8, 8) is
        the paper's). A still image is one frame: tile (1, 8, 8).
      window: frames, rows, columns of the window, in tiles (the paper gives tokens): one for all
        heads, or a tuple with one for each head.
      even_window: what an even window smaller than its axis keeps: "paper" one tile more than it
        says, half on each side (the authors' code); "exact" what it says, ``w // 2`` on the left
        and one fewer on the right.
    """

    tile: tuple[int, int, int]
    window: tuple
    even_window: str = "paper"

    def __post_init__(self):
        object.__setattr__(self, "tile", check_tile(self.tile))
        window = tuple(self.window)
        if window and np.ndim(window[0]):
            window = tuple(_check_window(w) for w in window)
        else:
            window = _check_window(window)
        object.__setattr__(self, "window", window)
        if self.even_window not in _EVEN_RULES:
            raise ValueError(f"even_window={self.even_window!r} must be one of {_EVEN_RULES}")

    @property
    def windows(self) -> tuple[tuple[int, int, int], ...]:
        """The window of each head, or the one of all."""
        return self.window if isinstance(self.window[0], tuple) else (self.window,)

    def token_order(self, grid):
        """Tile order."""
        return TokenOrder(grid, math.prod(self.tile), self.tile)

    def keep_blocks(self, grid, num_heads):
        """Bool [H|1, N, N] over tiles in raster order, then text blocks."""
        windows = self.windows
        if len(windows) not in (1, num_heads):
            raise ValueError(
                f"SlidingTile has windows for {len(windows)} heads, but the layer has {num_heads}; "
                "give one window, or one for each head"
            )
        order = self.token_order(grid)
        self._warn_even(order.tiles)
        keeps = {w: with_text(self._keep_tiles(order.tiles, w), order) for w in set(windows)}
        return np.stack([keeps[w] for w in windows])

    def _keep_tiles(self, tiles, window):
        t, y, x = (axis_window(n, w, self.even_window) for n, w in zip(tiles, window, strict=True))
        keep = t[:, None, None, :, None, None] & y[None, :, None, None, :, None]
        keep = keep & x[None, None, :, None, None, :]
        return keep.reshape(math.prod(tiles), math.prod(tiles))

    def _warn_even(self, tiles):
        partial = {
            w for window in self.windows for w, n in zip(window, tiles, strict=True) if w < n
        }
        even = sorted(w for w in partial if w % 2 == 0)
        if even and self.even_window == "paper":
            warnings.warn(
                f"SlidingTile windows of {even} tiles are even and smaller than the canvas of "
                f"{tiles} tiles: even_window='paper' keeps one more, as the authors' code does; "
                "choose even_window='exact' to keep exactly that many, or an odd window",
                stacklevel=2,
            )


def _check_window(window):
    window = tuple(window)
    if len(window) != 3 or any(not isinstance(w, int | np.integer) or w < 1 for w in window):
        raise ValueError(
            f"window={window} must be three positive whole numbers of tiles: frames, rows, columns "
            "(the paper's windows are in tokens; divide them by the tile)"
        )
    return tuple(int(w) for w in window)
