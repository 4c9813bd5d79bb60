"""Spatial tiles: cutting a picture, and blending what comes out, exactly as AutoencoderKLWan does."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tiling:
    """Overlapping tiles of a picture, (height, width) in pixels; the defaults are diffusers'.

    A model with patches (Wan 2.2's) encodes tiles that are `patch_size` times as large, as in diffusers.

    Attributes:
      size: of a tile; those at the right and at the bottom may be smaller.
      stride: from one tile to the next, at most `size`; the rest overlaps and is blended linearly.

    Raises:
      ValueError: a stride that is not positive or is larger than the tile.
    """

    size: tuple[int, int] = (256, 256)
    stride: tuple[int, int] = (192, 192)

    def __post_init__(self):
        if not all(0 < stride <= size for size, stride in zip(self.size, self.stride, strict=True)):
            raise ValueError(
                f"tiles of {self.size=} pixels every {self.stride=}: strides must be positive and no "
                "larger than the tile, or pixels between tiles are lost"
            )

    def in_latents(self, pixels: int) -> "Tiling":
        """The same with latents of `pixels` x `pixels` as the unit.

        Raises:
          ValueError: a size or stride is no multiple of `pixels`.
        """
        if any(n % pixels for n in self.size + self.stride):
            raise ValueError(
                f"tiles of {self.size=} and {self.stride=} pixels must be multiples of {pixels}, the "
                "side of one latent"
            )
        height, width = (n // pixels for n in self.size)
        stride_height, stride_width = (n // pixels for n in self.stride)
        return Tiling(size=(height, width), stride=(stride_height, stride_width))

    def exceeded_by(self, height: int, width: int) -> bool:
        """Whether a picture is larger than one tile, in the unit of `self`."""
        return height > self.size[0] or width > self.size[1]

    def boxes(self, height: int, width: int) -> list[list[tuple[int, int, int, int]]]:
        """Rows of tiles (top, left, height, width) that cover a picture."""
        return [
            [
                (top, left, min(self.size[0], height - top), min(self.size[1], width - left))
                for left in range(0, width, self.stride[1])
            ]
            for top in range(0, height, self.stride[0])
        ]


def map_tiles(
    tile: Callable[[jax.Array, jax.Array, int, int], jax.Array],
    boxes: list[list[tuple[int, int, int, int]]],
) -> list[list[jax.Array]]:
    """`tile(top, left, height, width)` of every box, one at a time; compiled once for each size.

    `top` and `left` are traced; the sizes are not.
    """
    sizes = {box[2:] for row in boxes for box in row}
    results = {}
    for height, width in sorted(sizes):
        same = [box for row in boxes for box in row if box[2:] == (height, width)]
        corners = jnp.asarray([box[:2] for box in same], jnp.int32)
        outs = jax.lax.map(lambda c, h=height, w=width: tile(c[0], c[1], h, w), corners)
        results.update(zip(same, outs, strict=True))
    return [[results[box] for box in row] for row in boxes]


def blend_tiles(
    tiles: list[list[jax.Array]], overlap: tuple[int, int], stride: tuple[int, int]
) -> jax.Array:
    """One picture of rows of tiles [..., H, W].

    Every tile is faded into the one above and then into the one at its left, as those have become
    themselves, over `overlap` pixels or as many as both have; then its first `stride` pixels are kept.
    """
    done: list[list[jax.Array]] = []
    for i, row in enumerate(tiles):
        done.append([])
        for j, tile in enumerate(row):
            if i > 0:
                tile = _fade(done[i - 1][j], tile, overlap[0], -2)
            if j > 0:
                tile = _fade(done[i][j - 1], tile, overlap[1], -1)
            done[i].append(tile)
    rows = [jnp.concatenate([t[..., : stride[0], : stride[1]] for t in row], -1) for row in done]
    return jnp.concatenate(rows, -2)


def _fade(before: jax.Array, tile: jax.Array, overlap: int, axis: int) -> jax.Array:
    """`tile` with its start mixed with the end of `before`, whose share falls from 1 by 1 / overlap a pixel."""
    overlap = min(overlap, before.shape[axis], tile.shape[axis])
    if not overlap:
        return tile
    share = np.arange(overlap) / overlap
    share = share.reshape([-1 if a == axis else 1 for a in range(-tile.ndim, 0)])
    start, rest = jnp.split(tile, [overlap], axis)
    end = jax.lax.slice_in_dim(before, before.shape[axis] - overlap, before.shape[axis], axis=axis)
    own, others = (jnp.asarray(s, tile.dtype) for s in (share, 1 - share))
    return jnp.concatenate([end * others + start * own, rest], axis)
