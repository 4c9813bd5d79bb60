"""Without a mesh; with one, on_eight_devices/check_vae.py decodes tiles."""

import numpy as np

from models.map_tiles import cut_out, map_plane, map_tiles
from models.tiling import Tile, boxes
from tests import tolerances
from tests.models.wan_vae.tiny import wave

CUTS = Tile(height=4, width=4, stride_height=3, stride_width=3).plane(1, 1)


def test_every_size_is_traced_once():
    x = wave((2, 9, 9), 0.3)
    traced = []

    def run(x, corner, size):
        traced.append(size)
        return cut_out(x, corner, size)

    plane = [box for row in boxes((9, 9), CUTS) for box in row]
    tiles = map_tiles(run, x, plane)
    assert sorted(traced) == [(3, 3), (3, 4), (4, 3), (4, 4)]
    assert set(tiles) == set(plane)
    assert len(plane) == 9
    for (top, left, height, width), out in tiles.items():
        np.testing.assert_array_equal(out, x[:, top : top + height, left : left + width])


def test_tiles_of_a_plane_are_joined():
    x = wave((2, 9, 9), 0.3)
    # Where tiles overlap both have the same numbers, so blending down and right gives them back, each of 4 roundings.
    tolerances.assert_rounding_apart(map_plane(cut_out, x, (9, 9), CUTS), x, 8, "joined")


def test_tiles_have_any_number_of_axes():
    x = wave((5, 6, 7), 0.2)
    tiles = map_tiles(cut_out, x, [(0, 2, 3, 4, 3, 2), (1, 0, 0, 4, 3, 2)])
    np.testing.assert_array_equal(tiles[0, 2, 3, 4, 3, 2], x[:4, 2:5, 3:5])
    np.testing.assert_array_equal(tiles[1, 0, 0, 4, 3, 2], x[1:, :3, :2])
