"""Overlapping tiles of a frame: cut apart, coded one by one, and blended over their overlaps."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Axis:
    """Tiles along one axis: cut from the input in its unit, joined in the output's."""

    size: int  # of a tile, in the input
    step: int  # between the starts of tiles, in the input
    blend: int  # of the output, shared with the tile before
    keep: int  # of the output, up to where the next tile begins

    def starts(self, length: int) -> range:
        """Where tiles start along `length` of the input."""
        return range(0, length, self.step)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tile:
    """Size of tiles in pixels, and what part of a tile overlaps with the next.

    Defaults as in diffusers' AutoencoderKLCogVideoX (`enable_tiling`), which chose them for 480x720.
    Differs: diffusers rounds sizes that do not fit together and returns frames of another size; here they are
    refused.
    """

    height: int
    width: int
    overlap_height: float = 1 / 6
    overlap_width: float = 1 / 5

    def latent_axes(self, ratio: int) -> tuple[Axis, Axis]:
        """Height and width for decoding: cut in latents of `ratio` pixels, joined in pixels."""
        return self._axes(ratio, 1)

    def pixel_axes(self, ratio: int) -> tuple[Axis, Axis]:
        """Height and width for encoding: cut in pixels, joined in latents of `ratio` pixels."""
        return self._axes(1, ratio)

    def _axes(self, unit_in: int, unit_out: int) -> tuple[Axis, Axis]:
        return (
            _axis("height", self.height, self.overlap_height, unit_in, unit_out),
            _axis("width", self.width, self.overlap_width, unit_in, unit_out),
        )


def _axis(name: str, pixels: int, overlap: float, unit_in: int, unit_out: int) -> Axis:
    ratio = unit_in * unit_out  # one of them is a pixel
    size_in, size_out = pixels // unit_in, pixels // unit_out
    # The products are those of diffusers, rounded down in float64 as there.
    step, blend = int(size_in * (1 - overlap)), int(size_out * overlap)
    keep = size_out - blend
    if pixels % ratio or not 0 < step < size_in or step * unit_in != keep * unit_out:
        raise ValueError(
            f"Tile {name}={pixels} with overlap_{name}={overlap:.4g} does not divide into latents of {ratio} pixels: "
            f"{name} / {ratio} and {name} / {ratio} * overlap must be whole numbers above 0; for example "
            f"{name}={ratio * 6} with an overlap of 1/6 or 1/3"
        )
    return Axis(size_in, step, blend, keep)


def cut(x: jax.Array, axes: tuple[Axis, Axis]) -> list[list[jax.Array]]:
    """Rows of tiles of x [..., H, W]; those at the lower and right edges are smaller."""
    down, right = axes
    return [
        [x[..., i : i + down.size, j : j + right.size] for j in right.starts(x.shape[-1])]
        for i in down.starts(x.shape[-2])
    ]


def join(rows: Sequence[Sequence[jax.Array]], axes: tuple[Axis, Axis]) -> jax.Array:
    """One array of tiles [..., h, w], blended linearly where they overlap: down first, then right.

    A tile is blended with its neighbours as they are after their own blending, as in diffusers.
    """
    down, right = axes
    above: list[jax.Array] = []
    joined = []
    for row in rows:
        done: list[jax.Array] = []
        for j, tile in enumerate(row):
            if above:
                tile = _blend(above[j], tile, down.blend, -2)
            if done:
                tile = _blend(done[-1], tile, right.blend, -1)
            done.append(tile)
        above = done
        kept = [tile[..., : down.keep, : right.keep] for tile in done]
        joined.append(jnp.concatenate(kept, -1))
    return jnp.concatenate(joined, -2)


def _blend(before: jax.Array, tile: jax.Array, extent: int, axis: int) -> jax.Array:
    extent = min(before.shape[axis], tile.shape[axis], extent)
    if not extent:
        return tile
    shape = [1] * tile.ndim
    shape[axis] = extent
    share = (np.arange(extent) / extent).reshape(shape)
    old = jax.lax.slice_in_dim(before, before.shape[axis] - extent, before.shape[axis], axis=axis)
    new = jax.lax.slice_in_dim(tile, 0, extent, axis=axis)
    mixed = _scaled(old, 1 - share) + _scaled(new, share)
    rest = jax.lax.slice_in_dim(tile, extent, tile.shape[axis], axis=axis)
    return jnp.concatenate([mixed, rest], axis)


def _scaled(x: jax.Array, weight: np.ndarray) -> jax.Array:
    # Each product is rounded to x's dtype, as in torch; weights stay float32.
    return (x.astype(jnp.float32) * jnp.asarray(weight, jnp.float32)).astype(x.dtype)
