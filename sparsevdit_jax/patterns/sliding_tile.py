"""SlidingTile: a 3-D window that moves in steps of a tile (STA, arXiv 2502.04507, Algorithm 3)."""

import dataclasses
import functools
import math
import warnings
from collections.abc import Iterable

import numpy as np

from pallas_kernels._values import listed, wholes
from sparsevdit_jax.masks.blocks import axis_window, with_text
from sparsevdit_jax.pattern import StaticPattern
from sparsevdit_jax.token_order import TokenOrder, check_tile

_EVEN_RULES = ("paper", "exact")
_WINDOW_REMEDY = (
    "give frames, rows and columns in tiles; SlidingTile.from_tokens takes the paper's tokens"
)


@dataclasses.dataclass(frozen=True)
class SlidingTile(StaticPattern):
    """Each tile attends the tiles of a window around it, shifted inwards at borders, and all text.

    All tokens of a tile are neighbours in block order, so each block pair is kept or dropped whole.
    Differs from the paper: any latent grid will do (tiles at the border may be ragged, the authors'
    must divide it), and the even-window rule is a choice.

    Density of the video part: the product over the axes of min(window, tiles) / tiles, for odd or
    full windows on a latent grid that the tile divides.

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
        window = listed("window", self.window, f"must be a sequence; {_WINDOW_REMEDY}")
        if window and isinstance(window[0], Iterable):
            window = tuple(_check_window(w) for w in window)
        else:
            window = _check_window(window)
        object.__setattr__(self, "window", window)
        if self.even_window not in _EVEN_RULES:
            raise ValueError(f"even_window={self.even_window!r} must be one of {_EVEN_RULES}")

    @classmethod
    def from_tokens(cls, tile, window, even_window: str = "paper") -> "SlidingTile":
        """The pattern of windows given in tokens, as papers give them.

        Args:
          tile: frames, rows, columns of a tile.
          window: of the window, in tokens: multiples of the tile's, one window or one for each head.
          even_window: as in `SlidingTile`.

        Raises:
          ValueError: a window that is no multiple of the tile, or as in `SlidingTile`.
        """
        tokens = cls(tile, window, even_window)  # refuses what is no window
        for each in tokens.windows:
            if not _are_multiples(each, tokens.tile):
                raise ValueError(
                    f"window={each} tokens must be a multiple of tile={tokens.tile} along each "
                    "axis; round it, or give SlidingTile a window in tiles"
                )
        in_tiles = tuple(
            tuple(w // t for w, t in zip(each, tokens.tile, strict=True)) for each in tokens.windows
        )
        for_all = tokens.windows == (tokens.window,)
        return cls(tokens.tile, in_tiles[0] if for_all else in_tiles, even_window)

    @property
    def windows(self) -> tuple[tuple[int, int, int], ...]:
        """The window of each head, or the one of all."""
        return self.window if isinstance(self.window[0], tuple) else (self.window,)

    @property
    def serves_any_head(self) -> bool:
        """Whether it has one window for all heads."""
        return len(self.windows) == 1

    def at_step(self, step, num_heads):
        """The pattern of each head's window."""
        del step
        if len(self.windows) == 1:
            return (self,) * num_heads
        self._check_heads(num_heads)
        return tuple(dataclasses.replace(self, window=w) for w in self.windows)

    def token_order(self, grid):
        """Tile order."""
        return TokenOrder(grid, math.prod(self.tile), self.tile)

    def keep_blocks(self, grid, num_heads):
        """Bool [H|1, N, N] over tiles in raster order, then text blocks."""
        windows = self.windows
        self._check_heads(num_heads)
        order = self.token_order(grid)
        _warn(self, order.tiles)
        keeps = {w: with_text(self._keep_tiles(order.tiles, w), order) for w in set(windows)}
        return np.stack([keeps[w] for w in windows])

    def _check_heads(self, num_heads):
        if len(self.windows) not in (1, num_heads):
            raise ValueError(
                f"SlidingTile has windows for {len(self.windows)} heads, but the layer has "
                f"{num_heads}; give one window, or one for each head"
            )

    def _keep_tiles(self, tiles, window):
        t, y, x = (axis_window(n, w, self.even_window) for n, w in zip(tiles, window, strict=True))
        keep = t[:, None, None, :, None, None] & y[None, :, None, None, :, None]
        keep = keep & x[None, None, :, None, None, :]
        return keep.reshape(math.prod(tiles), math.prod(tiles))


@functools.cache
def _warn(pattern: SlidingTile, tiles: tuple[int, int, int]) -> None:
    """Warns where a window does something unexpected on a latent grid, once for each pair of them."""
    axes = [tuple(zip(window, tiles, strict=True)) for window in pattern.windows]
    even = sorted({w for axis in axes for w, n in axis if w < n and w % 2 == 0})
    if even and pattern.even_window == "paper":
        warnings.warn(
            f"SlidingTile windows of {even} tiles are even and smaller than the latent grid of "
            f"{tiles} tiles: even_window='paper' keeps one more, as the authors' code does; "
            "choose even_window='exact' to keep exactly that many, or an odd window",
            stacklevel=3,
        )
    # Papers give windows in tokens: multiples of the tile, which as tiles reach over most latent grids.
    large = [
        window
        for window, axis in zip(pattern.windows, axes, strict=True)
        if any(w > n for w, n in axis)
        and (
            all(w >= n for w, n in axis)
            or (math.prod(pattern.tile) > 1 and _are_multiples(window, pattern.tile))
        )
    ]
    if large:
        window = large[0]
        kept = tuple(min(w, n) for w, n in zip(window, tiles, strict=True))
        warnings.warn(
            f"SlidingTile window {window} counts tiles, not tokens, and the latent grid has {tiles} "
            f"tiles of {pattern.tile} tokens: attention is "
            f"{'full' if kept == tiles else 'full along an axis'}. Give a window in tokens to "
            f"SlidingTile.from_tokens; if tiles are meant, window={kept} says the same",
            stacklevel=3,
        )


def _are_multiples(window, tile):
    return all(w % t == 0 for w, t in zip(window, tile, strict=True))


def _check_window(window):
    return wholes("window", window, 1, count=3, remedy=_WINDOW_REMEDY)
