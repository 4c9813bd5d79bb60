"""Overlapping tiles of a video: where to cut, and how to blend the results, as diffusers' autoencoders do.

Arrays are [..., H, W]. What goes through a model changes its unit (latents to pixels or back), so a `Cut` knows
both sides.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Box = tuple[int, int, int, int]  # top, left, height, width


class Cut(NamedTuple):
    """How one axis is cut, in entries of the input (`size`, `stride`) and of the output (the rest)."""

    size: int
    stride: int
    overlap: int
    kept: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tile:
    """Size of a tile and distance between tiles, in pixels and frames of the video, for decoding as for encoding.

    A picture larger than a tile in one direction is cut in both. Tiles at the lower and right edges may be smaller.
    `default_tile` of a model is what diffusers' `enable_tiling()` takes for it.

    Attributes:
      frames: a clip with more frames is cut in time; None never is. Only HunyuanVideo's autoencoder is cut in time
        (its tiles have one frame more), the others pass memory from chunk to chunk instead and refuse it.
      height: of a tile; None is never cut.
      width: the same.
      stride_frames: from the start of a tile to that of the next, at most `frames`; the rest overlaps and is blended.
      stride_height: the same; at most `height`.
      stride_width: the same; at most `width`.

    Raises:
      ValueError: a stride that is not in 1..size.
    """

    frames: int | None = None
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

    @classmethod
    def overlapping(
        cls, height: int, width: int, overlap_height: float, overlap_width: float
    ) -> "Tile":
        """A tile of which these parts overlap with the next, rounded down to pixels (CogVideoX's convention)."""
        return cls(
            height=height,
            width=width,
            stride_height=height - int(height * overlap_height),
            stride_width=width - int(width * overlap_width),
        )

    def cut(self, name: str, unit_in: int, unit_out: int) -> Cut:
        """The cut of an axis.

        Args:
          name: "frames", "height" or "width".
          unit_in: frames or pixels for each entry of the input.
          unit_out: the same of the output.

        Raises:
          ValueError: a size or stride that is not a multiple of the units.
        """
        size, stride = getattr(self, name), getattr(self, f"stride_{name}")
        if size is None:
            return Cut(sys.maxsize, sys.maxsize, 0, sys.maxsize)
        unit = max(unit_in, unit_out)
        if size % unit or stride % unit:
            raise ValueError(
                f"{name}={size} and stride_{name}={stride} of a tile must be multiples of {unit}, which "
                "a latent covers; round them"
            )
        return Cut(
            size // unit_in, stride // unit_in, (size - stride) // unit_out, stride // unit_out
        )

    def plane(self, unit_in: int, unit_out: int) -> tuple[Cut, Cut]:
        """Cuts of height and width; see `cut`."""
        return self.cut("height", unit_in, unit_out), self.cut("width", unit_in, unit_out)


def plane_cuts(
    tile: Tile | None, size: tuple[int, ...], unit_in: int, unit_out: int
) -> tuple[Cut, Cut] | None:
    """Cuts of a picture of `size` for a model that does not cut in time; None where it is worked on whole.

    Raises:
      ValueError: the tile has frames, or is not a multiple of the units.
    """
    if tile is None:
        return None
    if tile.frames is not None:
        raise ValueError(
            f"a tile of frames={tile.frames}, but this autoencoder streams in time, which needs no cutting; "
            "leave frames=None"
        )
    cuts = tile.plane(unit_in, unit_out)
    return cuts if exceeds(size, cuts) else None


def exceeds(size: tuple[int, ...], cuts: tuple[Cut, Cut]) -> bool:
    """Whether a picture of `size` (height, width) is larger than one tile."""
    return any(n > cut.size for n, cut in zip(size, cuts, strict=True))


def boxes(size: tuple[int, ...], cuts: tuple[Cut, Cut]) -> list[list[Box]]:
    """Rows of tiles that cover a picture of `size` (height, width), in entries of the input."""
    (height, width), (down, right) = size, cuts
    return [
        [
            (top, left, min(down.size, height - top), min(right.size, width - left))
            for left in range(0, width, right.stride)
        ]
        for top in range(0, height, down.stride)
    ]


def crop(x: jax.Array, box: Box) -> jax.Array:
    """The part of x [..., H, W] in a box; x may be a numpy array."""
    top, left, height, width = box
    return x[..., top : top + height, left : left + width]


def in_tiles(
    run: Callable[[jax.Array], jax.Array], x: jax.Array, cuts: tuple[Cut, Cut] | None
) -> jax.Array:
    """`run` over one tile of x after the other, joined; over x itself without cuts."""
    if cuts is None:
        return run(x)
    return join(((run(crop(x, box)) for box in row) for row in boxes(x.shape[-2:], cuts)), cuts)


def join(rows: Iterable[Iterable[jax.Array]], cuts: tuple[Cut, Cut]) -> jax.Array:
    """One picture of rows of tiles [..., h, w], which are taken one at a time.

    A tile is blended with the one above, then with the one at its left, after these were blended themselves. That is
    diffusers' order, so results are equal. In memory are, beside the picture, the edges of one row of tiles.
    """
    down, right = cuts
    above: list[jax.Array] = []
    joined = []
    for row in rows:
        edges, kept, before = [], [], None
        for j, tile in enumerate(row):
            if above:
                tile = fade(above[j], tile, overlap=down.overlap, axis=-2)
            if before is not None:
                tile = fade(before, tile, overlap=right.overlap, axis=-1)
            edges.append(end(tile, down.overlap, -2))
            before = end(tile, right.overlap, -1)
            kept.append(tile[..., : down.kept, : right.kept])
        above = edges
        joined.append(jnp.concatenate(kept, -1))
    return jnp.concatenate(joined, -2)


@functools.partial(jax.jit, static_argnames=("overlap", "axis"))
def fade(before: jax.Array, after: jax.Array, *, overlap: int, axis: int) -> jax.Array:
    """`after`, its first entries blended linearly with the last ones of `before`.

    Args:
      before: the tile before, or its end.
      after: the tile; only `axis` may differ in size.
      overlap: entries that are blended, fewer if one of the two has fewer.
      axis: along which they are neighbours, negative or not.
    """
    overlap = min(before.shape[axis], after.shape[axis], overlap)
    if not overlap:
        return after
    shape = [1] * after.ndim
    shape[axis] = overlap
    share = (np.arange(overlap) / overlap).reshape(shape)
    new, rest = jnp.split(after, [overlap], axis)
    mixed = _scaled(end(before, overlap, axis), 1 - share) + _scaled(new, share)
    return jnp.concatenate([mixed, rest], axis)


def end(x: jax.Array, count: int, axis: int) -> jax.Array:
    """The last `count` entries of an axis, or all if it has fewer."""
    size = x.shape[axis]
    return jax.lax.slice_in_dim(x, max(size - count, 0), size, axis=axis)


def _scaled(x: jax.Array, weight: np.ndarray) -> jax.Array:
    # Each product is rounded to x's dtype, as in torch; weights stay float32.
    return (x.astype(jnp.float32) * jnp.asarray(weight, jnp.float32)).astype(x.dtype)
