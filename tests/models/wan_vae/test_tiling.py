import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.wan_vae.tiling import Tiling, blend_tiles, map_tiles
from tests.models.wan_vae.tiny import wave


def test_defaults_are_the_originals_and_units_change():
    tiling = Tiling()
    assert (tiling.size, tiling.stride) == ((256, 256), (192, 192))
    assert tiling.in_latents(8) == Tiling(size=(32, 32), stride=(24, 24))
    assert not tiling.exceeded_by(256, 256)
    assert tiling.exceeded_by(264, 8)
    assert tiling.exceeded_by(8, 264)


def test_boxes_start_at_every_stride_and_end_at_the_border():
    boxes = Tiling(size=(4, 5), stride=(3, 3)).boxes(5, 7)
    assert boxes == [
        [(0, 0, 4, 5), (0, 3, 4, 4), (0, 6, 4, 1)],
        [(3, 0, 2, 5), (3, 3, 2, 4), (3, 6, 2, 1)],
    ]


def test_every_size_is_traced_once():
    x = wave((2, 9, 9), 0.3)
    boxes = Tiling(size=(4, 4), stride=(3, 3)).boxes(9, 9)
    traced = []

    def tile(top, left, height, width):
        traced.append((height, width))
        return jax.lax.dynamic_slice(x, (0, top, left), (2, height, width))

    tiles = map_tiles(tile, boxes)
    assert sorted(traced) == [(3, 3), (3, 4), (4, 3), (4, 4)]
    for row, line in zip(tiles, boxes, strict=True):
        for out, (top, left, height, width) in zip(row, line, strict=True):
            np.testing.assert_array_equal(out, x[:, top : top + height, left : left + width])


@pytest.mark.parametrize("shape", [(9, 9), (10, 13), (4, 20), (3, 2)])
@pytest.mark.parametrize("tiling", [((4, 5), (3, 2)), ((4, 4), (4, 4)), ((6, 8), (2, 3))])
def test_blending_tiles_of_one_picture_gives_it_back(shape, tiling):
    tiling = Tiling(size=tiling[0], stride=tiling[1])
    x = wave((2, *shape), 0.3)
    tiles = [
        [x[:, top : top + height, left : left + width] for top, left, height, width in row]
        for row in tiling.boxes(*shape)
    ]
    overlap = tuple(a - b for a, b in zip(tiling.size, tiling.stride, strict=True))
    np.testing.assert_allclose(blend_tiles(tiles, overlap, tiling.stride), x, atol=1e-6)


def test_fading_is_linear_from_the_neighbour_down_then_across():
    def flat(value, width):
        return jnp.full((1, 4, width), value, jnp.float32)

    out = blend_tiles([[flat(0.0, 4), flat(4.0, 4)]], (0, 2), (4, 2))
    np.testing.assert_allclose(out[0, 0], [0, 0, 0, 2], atol=0)
    rows = [[flat(0.0, 4), flat(4.0, 3)], [flat(8.0, 4), flat(16.0, 3)]]
    out = np.asarray(blend_tiles(rows, (2, 2), (2, 2)))
    # Row 2 is all of the row above, which is 0, 2, 4 in the second tile (blended there already), row 3
    # half of it; then across, where the fourth pixel is half of each tile.
    np.testing.assert_allclose(out[0, 2], [0, 0, 0, (0 + 2) / 2], atol=0)
    np.testing.assert_allclose(out[0, 3], [4, 4, 4, (4 + (2 + 16) / 2) / 2], atol=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Tiling(size=(8, 8), stride=(8, 9)), "no larger than the tile"),
        (lambda: Tiling(stride=(0, 8)), "strides must be positive"),
        (lambda: Tiling(size=(256, 250)).in_latents(8), "must be multiples of 8"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()
