"""Tiles against diffusers; cutting and blending by themselves: tests/models/test_tiling.py."""

import jax.numpy as jnp
import numpy as np
import pytest

from models.tiling import Tile
from tests.models.parity import arrays, assert_close

from .tiny import DECODE, ENCODE, SMALL, vae

THIRDS = Tile.overlapping(12, 12, 1 / 3, 1 / 3)
DEFAULT_OVERLAPS = Tile.overlapping(24, 20, 1 / 6, 1 / 5)


def test_decoding_in_tiles_matches_diffusers():
    case = arrays(SMALL, "decode_both")
    video = vae(SMALL).decode(jnp.asarray(case["z"]), tile=THIRDS)
    assert_close(video, case["decoded"], DECODE[SMALL], "one frame, 2 x 3 tiles")


def test_a_long_clip_in_tiles_matches_diffusers_and_comes_in_chunks():
    case = arrays(SMALL, "decode_long")
    z = jnp.asarray(case["z"])
    video = vae(SMALL).decode(z, tile=THIRDS)
    assert_close(video, case["decoded"], DECODE[SMALL], "17 frames, 2 tiles")
    parts = [np.asarray(part) for part in vae(SMALL).decode_chunks(z, tile=THIRDS)]
    assert [part.shape[2] for part in parts] == [9, 8]
    np.testing.assert_array_equal(np.concatenate(parts, 2), video)


@pytest.mark.parametrize(
    ("case", "tile"), [("encode_both", DEFAULT_OVERLAPS), ("encode_long", THIRDS)]
)
def test_encoding_in_tiles_matches_diffusers(case, tile):
    case = arrays(SMALL, case)
    mean, logvar = vae(SMALL).encode(jnp.asarray(case["video"]), tile=tile)
    assert_close(mean, case["mean"], ENCODE[SMALL], "mean")
    assert_close(logvar, case["logvar"], ENCODE[SMALL], "logvar")
