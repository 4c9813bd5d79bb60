import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from models.cogvideox_vae import PRESETS, Tile
from models.cogvideox_vae.tiling import Axis, cut, join
from tests.models.parity import arrays, assert_close

from .tiny import DECODE, ENCODE, SMALL, vae

THIRDS = Tile(height=12, width=12, overlap_height=1 / 3, overlap_width=1 / 3)
DEFAULT_OVERLAPS = Tile(height=24, width=20)


def test_axes_of_the_published_sizes():
    tile = PRESETS["cogvideox-vae"].tile
    assert tile.latent_axes(8) == (Axis(30, 25, 40, 200), Axis(45, 36, 72, 288))
    assert tile.pixel_axes(8) == (Axis(240, 200, 5, 25), Axis(360, 288, 9, 36))


def blended_in_loops(rows, down, right):
    """What diffusers' loops compute, pixel row by pixel row, on copies."""
    rows = [[tile.copy() for tile in row] for row in rows]
    for i, row in enumerate(rows):
        for j, tile in enumerate(row):
            if i:
                above = rows[i - 1][j]
                extent = min(above.shape[-2], tile.shape[-2], down.blend)
                for y in range(extent):
                    share = y / extent
                    old = above[..., -extent + y, :]
                    tile[..., y, :] = old * (1 - share) + tile[..., y, :] * share
            if j:
                left = row[j - 1]
                extent = min(left.shape[-1], tile.shape[-1], right.blend)
                for x in range(extent):
                    share = x / extent
                    old = left[..., -extent + x]
                    tile[..., x] = old * (1 - share) + tile[..., x] * share
    kept = [np.concatenate([t[..., : down.keep, : right.keep] for t in row], -1) for row in rows]
    return np.concatenate(kept, -2)


@pytest.mark.parametrize("size", [(28, 24), (24, 20), (20, 16), (4, 24), (44, 8)])
def test_join_blends_like_loops_over_rows_and_columns(size):
    axes = DEFAULT_OVERLAPS.latent_axes(4)
    latents = jnp.zeros((1, 2, *(n // 4 for n in size)))
    rng = np.random.default_rng(0)
    shapes = [[tile.shape for tile in row] for row in cut(latents, axes)]
    rows = [
        [
            rng.normal(size=(*shape[:2], 4 * shape[2], 4 * shape[3])).astype(np.float32)
            for shape in row
        ]
        for row in shapes
    ]
    got = join([[jnp.asarray(tile) for tile in row] for row in rows], axes)
    assert got.shape == (1, 2, *size)
    np.testing.assert_allclose(got, blended_in_loops(rows, *axes), atol=3e-7)


def test_tiles_of_one_picture_join_to_it():
    axes = THIRDS.pixel_axes(1)
    picture = jnp.arange(35.0 * 29).reshape(1, 35, 29)
    np.testing.assert_allclose(join(cut(picture, axes), axes), picture, rtol=1e-6)


def test_weights_are_float32_and_products_keep_the_dtype():
    axes = THIRDS.pixel_axes(1)
    tiles = [
        [tile.astype(jnp.bfloat16) for tile in row] for row in cut(jnp.ones((1, 20, 20)), axes)
    ]
    assert join(tiles, axes).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "changes",
    [
        {"height": 20},  # no multiple of the ratio
        {"overlap_width": 0.3},  # 3.6 pixels
        {"height": 16, "overlap_height": 1 / 6},  # diffusers' own choice for a sample of 32 pixels
        {"overlap_height": 0.0},
        {"overlap_width": 1.0},
        {"width": 0},
    ],
)
def test_sizes_that_do_not_divide_are_refused(changes):
    tile = dataclasses.replace(Tile(height=48, width=40), **changes)
    for axes in (tile.latent_axes, tile.pixel_axes):
        with pytest.raises(
            ValueError, match=r"Tile (height|width)=.* does not divide into latents of 8 pixels"
        ):
            axes(8)


def test_decoding_in_tiles_matches_diffusers():
    case = arrays(SMALL, "decode_both")
    video = vae(SMALL).decode(jnp.asarray(case["z"]), tile=THIRDS)
    assert_close(video, case["decoded"], DECODE, "one frame, 2 x 3 tiles")


def test_a_long_clip_in_tiles_matches_diffusers_and_comes_in_chunks():
    case = arrays(SMALL, "decode_long")
    z = jnp.asarray(case["z"])
    video = vae(SMALL).decode(z, tile=THIRDS)
    assert_close(video, case["decoded"], DECODE, "17 frames, 2 tiles")
    parts = [np.asarray(part) for part in vae(SMALL).decode_chunks(z, tile=THIRDS)]
    assert [part.shape[2] for part in parts] == [9, 8]
    np.testing.assert_array_equal(np.concatenate(parts, 2), video)


@pytest.mark.parametrize(
    ("case", "tile"), [("encode_both", DEFAULT_OVERLAPS), ("encode_long", THIRDS)]
)
def test_encoding_in_tiles_matches_diffusers(case, tile):
    case = arrays(SMALL, case)
    mean, logvar = vae(SMALL).encode(jnp.asarray(case["video"]), tile=tile)
    assert_close(mean, case["mean"], ENCODE, "mean")
    assert_close(logvar, case["logvar"], ENCODE, "logvar")
