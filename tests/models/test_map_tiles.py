import jax
import numpy as np

from models.tiling import Tile, boxes
from models.wan_vae.tiling import map_tiles
from tests.models.wan_vae.tiny import wave


def test_every_size_is_traced_once():
    x = wave((2, 9, 9), 0.3)
    rows = boxes((9, 9), Tile(height=4, width=4, stride_height=3, stride_width=3).plane(1, 1))
    traced = []

    def tile(top, left, height, width):
        traced.append((height, width))
        return jax.lax.dynamic_slice(x, (0, top, left), (2, height, width))

    tiles = map_tiles(tile, rows)
    assert sorted(traced) == [(3, 3), (3, 4), (4, 3), (4, 4)]
    for row, line in zip(tiles, rows, strict=True):
        for out, (top, left, height, width) in zip(row, line, strict=True):
            np.testing.assert_array_equal(out, x[:, top : top + height, left : left + width])
