"""Tiles one after another inside one compiled program."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ..tiling import Box


def map_tiles(
    tile: Callable[[jax.Array, jax.Array, int, int], jax.Array], boxes: list[list[Box]]
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
