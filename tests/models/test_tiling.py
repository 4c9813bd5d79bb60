import sys

import jax.numpy as jnp
import numpy as np
import pytest

from models.tiling import Cut, Tile, boxes, crop, exceeds, fade, in_tiles, join, plane_cuts
from tests import tolerances

DEFAULT = Tile(frames=16)
THIRDS = Tile.overlapping(12, 12, 1 / 3, 1 / 3)
SIXTHS = Tile.overlapping(24, 20, 1 / 6, 1 / 5)
BLENDS = 8  # roundings: down and right, each two products, their sum and a share


def tile(size, stride):
    return Tile(height=size[0], width=size[1], stride_height=stride[0], stride_width=stride[1])


def wave(*shape):
    return jnp.asarray(np.cos(0.3 * np.arange(np.prod(shape))).reshape(shape), jnp.float32)


def test_cuts_are_in_latents_on_one_side_and_pixels_on_the_other():
    assert DEFAULT.cut("frames", 4, 1) == Cut(size=4, stride=3, overlap=4, kept=12)
    assert DEFAULT.plane(8, 1) == (Cut(size=32, stride=24, overlap=64, kept=192),) * 2
    assert DEFAULT.cut("frames", 1, 4) == Cut(size=16, stride=12, overlap=1, kept=3)
    assert DEFAULT.plane(1, 8) == (Cut(size=256, stride=192, overlap=8, kept=24),) * 2
    # Wan 2.2: 16 pixels a latent, in patches of two.
    assert DEFAULT.plane(16, 2)[0] == Cut(size=16, stride=12, overlap=32, kept=96)
    assert Tile().cut("frames", 4, 1) == Cut(sys.maxsize, sys.maxsize, 0, sys.maxsize)


def test_overlaps_are_rounded_down_to_pixels():
    assert Tile.overlapping(240, 360, 1 / 6, 1 / 5) == tile((240, 360), (200, 288))
    assert Tile.overlapping(240, 360, 1 / 6, 1 / 5).plane(8, 1) == (
        Cut(30, 25, 40, 200),
        Cut(45, 36, 72, 288),
    )
    assert Tile.overlapping(16, 16, 1 / 6, 0.0) == tile((16, 16), (14, 16))


@pytest.mark.parametrize("axis", ["frames", "height", "width"])
def test_strides_and_sizes_are_checked(axis):
    sizes = {"frames": 16}
    with pytest.raises(ValueError, match=rf"stride_{axis}=512 must be in 1\.\.{axis}=\d+"):
        Tile(**sizes, **{f"stride_{axis}": 512})
    with pytest.raises(ValueError, match=f"stride_{axis}=0 must be in"):
        Tile(**sizes, **{f"stride_{axis}": 0})
    with pytest.raises(ValueError, match=f"{axis}=1026 .* must be multiples of 8.*round them"):
        Tile(**sizes | {axis: 1026}).cut(axis, 8, 1)
    with pytest.raises(ValueError, match=f"stride_{axis}=2 of a tile must be multiples of 8"):
        Tile(**sizes, **{f"stride_{axis}": 2}).cut(axis, 1, 8)


@pytest.mark.parametrize(
    ("height", "width", "overlap_height", "overlap_width"),
    [
        (20, 40, 1 / 6, 1 / 5),  # no multiple of 8
        (48, 40, 1 / 6, 0.3),  # a stride of 28 pixels
        (16, 40, 1 / 6, 1 / 5),  # diffusers' own choice for a sample of 32 pixels
        (48, 40, 1 / 6, 1.0),
        (48, 0, 1 / 6, 1 / 5),
    ],
)
def test_overlaps_that_do_not_divide_are_refused(height, width, overlap_height, overlap_width):
    for units in ((8, 1), (1, 8)):
        with pytest.raises(ValueError, match=r"must be multiples of 8|must be in 1"):
            Tile.overlapping(height, width, overlap_height, overlap_width).plane(*units)


def test_models_that_stream_take_no_tile_in_time():
    assert plane_cuts(None, (900, 900), 8, 1) is None
    assert plane_cuts(Tile(), (32, 32), 8, 1) is None
    assert plane_cuts(Tile(), (33, 1), 8, 1) == Tile().plane(8, 1)
    with pytest.raises(ValueError, match=r"a tile of frames=16, .* leave frames=None"):
        plane_cuts(DEFAULT, (33, 1), 8, 1)


def test_a_picture_is_cut_if_one_side_is_too_long():
    cuts = Tile().plane(8, 1)
    assert not exceeds((32, 32), cuts)
    assert exceeds((33, 1), cuts)
    assert exceeds((1, 33), cuts)
    assert not exceeds((1000, 32), Tile(height=None).plane(8, 1))


def test_boxes_start_at_every_stride_and_end_at_the_border():
    assert boxes((5, 7), tile((4, 5), (3, 3)).plane(1, 1)) == [
        [(0, 0, 4, 5), (0, 3, 4, 4), (0, 6, 4, 1)],
        [(3, 0, 2, 5), (3, 3, 2, 4), (3, 6, 2, 1)],
    ]


@pytest.mark.parametrize("shape", [(9, 9), (10, 13), (4, 20), (3, 2)])
@pytest.mark.parametrize("sizes", [((4, 5), (3, 2)), ((4, 4), (4, 4)), ((6, 8), (2, 3))])
def test_tiles_of_one_picture_join_to_it(shape, sizes):
    x, cuts = wave(2, *shape), tile(*sizes).plane(1, 1)
    tolerances.assert_rounding_apart(in_tiles(lambda x: x, x, cuts), x, BLENDS, "joined")
    np.testing.assert_array_equal(in_tiles(lambda x: x, x, None), x)


def test_tiles_are_taken_one_at_a_time():
    seen = []
    x, cuts = np.zeros((1, 8, 8), np.float32), tile((4, 4), (4, 4)).plane(1, 1)

    def run(part):
        seen.append(part)
        assert isinstance(part, np.ndarray)  # a view of what may be a long clip
        return jnp.asarray(part) + len(seen)

    np.testing.assert_array_equal(in_tiles(run, x, cuts)[0, ::4, ::4], [[1, 2], [3, 4]])
    assert len(seen) == 4


def blended_in_loops(rows, down, right):
    """What diffusers' loops compute, pixel row by pixel row, on copies."""
    rows = [[tile.copy() for tile in row] for row in rows]
    for i, row in enumerate(rows):
        for j, part in enumerate(row):
            if i:
                above = rows[i - 1][j]
                extent = min(above.shape[-2], part.shape[-2], down.overlap)
                for y in range(extent):
                    share = y / extent
                    old = above[..., -extent + y, :]
                    part[..., y, :] = old * (1 - share) + part[..., y, :] * share
            if j:
                left = row[j - 1]
                extent = min(left.shape[-1], part.shape[-1], right.overlap)
                for x in range(extent):
                    share = x / extent
                    old = left[..., -extent + x]
                    part[..., x] = old * (1 - share) + part[..., x] * share
    kept = [np.concatenate([t[..., : down.kept, : right.kept] for t in row], -1) for row in rows]
    return np.concatenate(kept, -2)


@pytest.mark.parametrize("size", [(28, 24), (24, 20), (20, 16), (4, 24), (44, 8)])
def test_join_blends_like_loops_over_rows_and_columns(size):
    cuts = SIXTHS.plane(4, 1)
    rng = np.random.default_rng(0)
    rows = [
        [rng.normal(size=(1, 2, 4 * h, 4 * w)).astype(np.float32) for _, _, h, w in row]
        for row in boxes((size[0] // 4, size[1] // 4), cuts)
    ]
    got = join([[jnp.asarray(part) for part in row] for row in rows], cuts)
    assert got.shape == (1, 2, *size)
    tolerances.assert_rounding_apart(got, blended_in_loops(rows, *cuts), BLENDS, "joined")


def test_tiles_keep_their_dtype():
    x, cuts = jnp.ones((1, 20, 20), jnp.bfloat16), THIRDS.plane(1, 1)
    assert (
        join([[crop(x, box) for box in row] for row in boxes((20, 20), cuts)], cuts).dtype
        == x.dtype
    )


def test_fade_is_linear_over_what_both_have():
    before, after = jnp.full((1, 5), 4.0), jnp.zeros((1, 6))

    def check(got, want):
        np.testing.assert_array_equal(got, want)

    check(fade(before, after, overlap=4, axis=1), [[4.0, 3.0, 2.0, 1.0, 0.0, 0.0]])
    check(fade(before, after, overlap=4, axis=-1), [[4.0, 3.0, 2.0, 1.0, 0.0, 0.0]])
    check(fade(before[:, :2], after, overlap=4, axis=1), [[4.0, 2.0, 0.0, 0.0, 0.0, 0.0]])
    check(fade(before, after, overlap=0, axis=1), after)
    check(fade(before, after[:, :0], overlap=4, axis=1), after[:, :0])
    low = fade(before.astype(jnp.bfloat16), after.astype(jnp.bfloat16), overlap=4, axis=1)
    assert low.dtype == jnp.bfloat16


def test_fading_is_down_then_across():
    def flat(value, width):
        return jnp.full((1, 4, width), value, jnp.float32)

    cuts = tile((4, 4), (2, 2)).plane(1, 1)
    rows = [[flat(0.0, 4), flat(4.0, 3)], [flat(8.0, 4), flat(16.0, 3)]]
    out = np.asarray(join(rows, cuts))
    # Row 2 is all of the row above, which is 0, 2, 4 in the second tile (blended there already), row 3
    # half of it; then across, where the fourth pixel is half of each tile.
    np.testing.assert_allclose(out[0, 2], [0, 0, 0, (0 + 2) / 2], atol=0)
    np.testing.assert_allclose(out[0, 3], [4, 4, 4, (4 + (2 + 16) / 2) / 2], atol=0)
