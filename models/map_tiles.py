"""Runs over tiles one after another in one compiled program; under a mesh each device runs over its share."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from sparsevdit_jax.parallel import whole

from .tiling import Cut, boxes, join
from .vae_devices import vae_axes, vae_devices

Numbers = tuple[int, ...]


def map_tiles(
    run: Callable[[Any, jax.Array, Numbers], jax.Array],
    operands: Any,
    tiles: Iterable[Numbers],
) -> dict[Numbers, jax.Array]:
    """`run(operands, corner, size)` of every tile, one at a time; compiled once for each size.

    Under a mesh the tiles of one size are divided among its devices, and the results are replicated.

    Args:
      run: of the operands, a traced int32 vector where the tile starts, and its sizes along the same axes.
      operands: arrays that `run` needs, replicated: under a mesh `run` may close over none.
      tiles: starts, then sizes, both along the same axes.

    Returns:
      The results, by tile.
    """
    tiles = list(tiles)
    half = len(tiles[0]) // 2
    results = {}
    for size in sorted({tile[half:] for tile in tiles}):
        same = [tile for tile in tiles if tile[half:] == size]
        corners = jnp.asarray([tile[:half] for tile in same], jnp.int32)
        outs = _each(run, operands, corners, size)
        results.update(zip(same, outs, strict=True))
    return results


def map_plane(run, operands: Any, size: tuple[int, ...], cuts: tuple[Cut, Cut]) -> jax.Array:
    """`map_tiles` over those of a picture of `size` (height, width), joined."""
    rows = boxes(size, cuts)
    tiles = map_tiles(run, operands, (box for row in rows for box in row))
    return join([[tiles[box] for box in row] for row in rows], cuts)


def cut_out(x: jax.Array, corner: jax.Array, size: Numbers) -> jax.Array:
    """The tile of the last axes of x, as many as `size` has."""
    begin = x.ndim - len(size)
    zeros = [jnp.int32(0)] * begin
    return jax.lax.dynamic_slice(x, [*zeros, *corner], (*x.shape[:begin], *size))


def _each(run, operands, corners, size):
    def all_of(operands, corners):
        return jax.lax.map(lambda corner: run(operands, corner, size), corners)

    devices = vae_devices()
    if devices == 1:
        return all_of(operands, corners)
    extra = -len(corners) % devices
    padded = jnp.concatenate([corners, jnp.broadcast_to(corners[:1], (extra, corners.shape[1]))])
    divided = PartitionSpec(vae_axes())
    spread = jax.shard_map(
        all_of, in_specs=(PartitionSpec(), divided), out_specs=divided, check_vma=False
    )
    return whole(spread(operands, padded))[: len(corners)]
