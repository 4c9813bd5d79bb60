"""Work on a video tile by tile: overlapping tiles, blended where they overlap.

Arrays are [B, C, T, H, W]. A tile is blended with its neighbours as they are after their own blending, in
diffusers' order (rows from the top, in a row from the left), so the results are the same.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_FRAMES, _HEIGHT, _WIDTH = 2, 3, 4  # axes


class Cut(NamedTuple):
    """How one axis is cut, in entries of the input (`size`, `stride`) and of the output (the rest)."""

    size: int
    stride: int
    overlap: int
    kept: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tile:
    """Size of a tile and distance between tiles, in pixels and frames of the video, for decoding as for encoding.

    The defaults are those of diffusers' `enable_tiling()`. What diffusers does without that call is
    `Tile(height=None, width=None)`.

    Attributes:
      frames: a clip with more frames is cut in time; None never is. The cut tiles have one frame more.
      height: a clip that is higher, or wider than `width`, is cut in both; None is never cut.
      width: see `height`.
      stride_frames: from the start of a tile to that of the next; at most `frames`.
      stride_height: the same; at most `height`.
      stride_width: the same; at most `width`.

    Raises:
      ValueError: a stride that is not in 1..size.
    """

    frames: int | None = 16
    height: int | None = 256
    width: int | None = 256
    stride_frames: int = 12
    stride_height: int = 192
    stride_width: int = 192

    def __post_init__(self) -> None:
        for name in ("frames", "height", "width"):
            size, stride = getattr(self, name), getattr(self, f"stride_{name}")
            if size is not None and not 1 <= stride <= size:
                raise ValueError(
                    f"stride_{name}={stride} must be in 1..{name}={size}, or there are gaps "
                    f"between tiles; give a smaller stride, or {name}=None to leave it whole"
                )

    def cuts(self, units: tuple[int, int, int], *, of_input: bool) -> tuple[Cut, Cut, Cut]:
        """Cuts of frames, height and width where the latents have `units` frames and pixels an entry.

        Args:
          units: (frames, height, width) of a latent.
          of_input: whether the latents go in (decoding) or come out (encoding).

        Raises:
          ValueError: a size or stride that is not a multiple of its unit.
        """
        cuts = []
        for name, unit in zip(("frames", "height", "width"), units, strict=True):
            size, stride = getattr(self, name), getattr(self, f"stride_{name}")
            if size is None:
                cuts.append(Cut(sys.maxsize, sys.maxsize, 0, sys.maxsize))
                continue
            if size % unit or stride % unit:
                raise ValueError(
                    f"{name}={size} and stride_{name}={stride} must be multiples of {unit}, which "
                    "a latent covers; round them"
                )
            a, b = (unit, 1) if of_input else (1, unit)
            cuts.append(Cut(size // a, stride // a, (size - stride) // b, stride // b))
        frames, height, width = cuts
        return frames, height, width


DEFAULT_TILE = Tile()


def in_chunks(
    run: Callable[[jax.Array], jax.Array], x: jax.Array, cuts: tuple[Cut, Cut, Cut]
) -> Iterator[jax.Array]:
    """Runs over tiles of x and yields the result in order of time, as it is finished.

    `run` is called with one tile at a time; a chunk and the frames in which it overlaps the next are all
    that is kept between two of them.

    Args:
      run: of [B, C, T, h, w], a causal map that takes the first frame (and nothing else) for itself.
      x: [B, C, T, H, W].
      cuts: of T, H and W.
    """
    cut, *plane = cuts
    if x.shape[_FRAMES] <= cut.size:
        yield _plane(run, x, *plane)
        return
    before = None
    for start in range(0, x.shape[_FRAMES], cut.stride):
        # The frame before a tile's own goes in with it, for context, and its result is dropped.
        part = x[:, :, start : start + cut.size + 1]
        if start and part.shape[_FRAMES] == 1:
            return
        y = _plane(run, part, *plane)
        if before is not None:
            y = blend(before, y[:, :, 1:], extent=cut.overlap, axis=_FRAMES)
        before = _end(y, cut.overlap, _FRAMES)
        yield y[:, :, : cut.kept + (start == 0)]


def _plane(run, x, cut_height, cut_width):
    """`run` over tiles of height and width; edges of at most one row of tiles are kept beside the result."""
    height, width = x.shape[_HEIGHT:]
    if height <= cut_height.size and width <= cut_width.size:
        return run(x)
    rows, edges_above = [], []
    for top in range(0, height, cut_height.stride):
        row, edges, edge_left = [], [], None
        for j, left in enumerate(range(0, width, cut_width.stride)):
            y = run(x[..., top : top + cut_height.size, left : left + cut_width.size])
            if edges_above:
                y = blend(edges_above[j], y, extent=cut_height.overlap, axis=_HEIGHT)
            if edge_left is not None:
                y = blend(edge_left, y, extent=cut_width.overlap, axis=_WIDTH)
            edges.append(_end(y, cut_height.overlap, _HEIGHT))
            edge_left = _end(y, cut_width.overlap, _WIDTH)
            row.append(y[..., : cut_height.kept, : cut_width.kept])
        edges_above = edges
        rows.append(jnp.concatenate(row, _WIDTH))
    return jnp.concatenate(rows, _HEIGHT)


@functools.partial(jax.jit, static_argnames=("extent", "axis"))
def blend(before: jax.Array, after: jax.Array, *, extent: int, axis: int) -> jax.Array:
    """`after` with its first entries faded in from the last ones of `before`, linearly, in float32.

    Args:
      before: the tile before, or its end.
      after: the tile; only `axis` may differ in size.
      extent: entries that are faded, fewer if one of the two has fewer.
      axis: along which they are neighbours.
    """
    extent = min(before.shape[axis], after.shape[axis], extent)
    shape = [1] * after.ndim
    shape[axis] = extent
    share = (np.arange(extent) / max(extent, 1)).reshape(shape)
    old = _end(before, extent, axis).astype(jnp.float32) * (1 - share).astype(np.float32)
    new, rest = jnp.split(after, [extent], axis)
    new = old + new.astype(jnp.float32) * share.astype(np.float32)
    return jnp.concatenate([new.astype(after.dtype), rest], axis)


def _end(x, count, axis):
    """The last `count` entries of an axis, or all if it has fewer."""
    size = x.shape[axis]
    return jax.lax.slice_in_dim(x, max(size - count, 0), size, axis=axis)
