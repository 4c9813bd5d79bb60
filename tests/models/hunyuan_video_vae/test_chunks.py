import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.hunyuan_video_vae.chunks import in_chunks
from models.hunyuan_video_vae.decoder import Decoder
from models.tiling import Tile
from tests.models import parity

from . import tiny

DEFAULT = Tile(frames=16)


def cuts_of(tile):
    return tile.cut("frames", 4, 1), *tile.plane(8, 1)


def enlarge(z):
    """[B, C, 1 + n, h, w] to [B, C, 1 + 4n, 8h, 8w] by repeating: what a decoder does to shapes."""
    z = jnp.repeat(jnp.asarray(z), 4, 2)[:, :, 3:]
    return jnp.repeat(jnp.repeat(z, 8, 3), 8, 4)


SMALL = Tile(frames=8, height=32, width=40, stride_frames=4, stride_height=16, stride_width=32)


@pytest.mark.parametrize(
    ("shape", "tile", "chunks"),
    [
        ((1, 2, 6, 6, 7), SMALL, [5, 4, 4, 4, 4]),
        ((1, 2, 8, 33, 1), DEFAULT, [13, 12, 4]),
        ((1, 2, 7, 2, 2), DEFAULT, [13, 12]),  # a third tile would have its context only
        ((1, 2, 4, 40, 33), DEFAULT, [13]),
        ((2, 2, 6, 40, 33), Tile(), [21]),
        ((2, 2, 6, 40, 33), Tile(frames=16, height=None, width=None), [13, 8]),
        ((1, 2, 1, 1, 1), DEFAULT, [1]),
        ((1, 2, 7, 9, 3), Tile(frames=8, stride_frames=8), [9, 8, 8]),
    ],
)
def test_tiles_of_a_local_map_give_the_whole(shape, tile, chunks):
    z = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    got = list(in_chunks(enlarge, z, cuts_of(tile)))
    assert [part.shape[2] for part in got] == chunks
    np.testing.assert_allclose(np.concatenate(got, 2), enlarge(z), atol=1e-6)


def test_gradients_go_through_tiles():
    cuts = cuts_of(SMALL)

    @jax.jit
    @jax.grad
    def gradient(z):
        return sum(chunk.sum() for chunk in in_chunks(enlarge, z, cuts))

    want = np.full((1, 1, 4, 4, 7), 4.0 * 64)
    want[:, :, 0] = 64  # the first latent makes one frame, others four
    np.testing.assert_allclose(gradient(jnp.ones((1, 1, 4, 4, 7))), want, rtol=1e-5)


def test_blending_is_that_of_tiles_blended_in_place():
    # A map that adds the tile's number, so that every tile differs where it overlaps another.
    counter = iter(range(100))
    z = np.zeros((1, 1, 3, 6, 7), np.float32)
    cuts = cuts_of(SMALL)
    (got,) = in_chunks(
        lambda part: enlarge(part) + float(next(counter) ** 2),
        z,
        (cuts[0]._replace(size=9), *cuts[1:]),
    )

    rows = [
        [np.zeros((1, 1, 9, min(32, 48 - top), min(40, 56 - left))) for left in (0, 32)]
        for top in (0, 16, 32)
    ]
    for number, tile in enumerate(tile for row in rows for tile in row):
        tile += number**2
    for i, row in enumerate(rows):
        for j, tile in enumerate(row):
            if i:
                for y in range(16):
                    old = rows[i - 1][j][..., y - 16, :]
                    tile[..., y, :] = old * (1 - y / 16) + tile[..., y, :] * y / 16
            if j:
                for x in range(8):
                    old = row[j - 1][..., x - 8]
                    tile[..., x] = old * (1 - x / 8) + tile[..., x] * x / 8
    want = np.concatenate([np.concatenate([t[..., :16, :32] for t in row], -1) for row in rows], -2)
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_chunks_are_made_when_they_are_asked_for():
    seen = []

    def run(part):
        seen.append(part.shape)
        return enlarge(part)

    chunks = in_chunks(run, np.zeros((1, 2, 9, 2, 2), np.float32), cuts_of(DEFAULT))
    assert seen == []
    next(chunks)
    assert seen == [(1, 2, 5, 2, 2)]
    next(chunks)
    assert seen == [(1, 2, 5, 2, 2)] * 2


def test_tiled_decode_agrees_with_diffusers_in_one_piece_and_in_chunks(monkeypatch):
    vae, case = tiny.load(), parity.arrays("vae_hunyuan_tiled", "decode")
    tile = Tile(frames=8, stride_frames=4, width=40, stride_width=32)
    traces = []
    original = Decoder.__call__
    monkeypatch.setattr(
        Decoder, "__call__", lambda self, z: traces.append(z.shape) or original(self, z)
    )
    chunks = list(vae.decode_chunks(case["z"], tile=tile))
    assert [chunk.shape[2] for chunk in chunks] == [5, 4, 4]
    # Of six tiles: three frames and two, widths of five latents and three.
    assert len(traces) == len(set(traces)) == 4
    whole = vae.decode(case["z"], tile=tile)
    assert len(traces) == 4  # found compiled
    np.testing.assert_array_equal(whole, np.concatenate(chunks, 2))
    parity.assert_close(whole, case["decoded"], tiny.DECODE, "tiled decode")


def test_tiled_encode_agrees_with_diffusers():
    case = parity.arrays("vae_hunyuan_tiled", "encode")
    video = case["video"].astype(np.float32) / 3.5 - 1
    tile = Tile(frames=8, stride_frames=4, height=32, stride_height=16)
    mean, logvar = tiny.load().encode(video, tile=tile)
    parity.assert_close(mean, case["mean"], tiny.ENCODE, "mean")
    parity.assert_close(logvar, case["logvar"], tiny.ENCODE, "logvar")
