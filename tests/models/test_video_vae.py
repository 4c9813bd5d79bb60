import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.tiling import Tile
from models.video_vae import (
    VideoVAE,
    channels_last,
    channels_second,
    run_layers,
    scan_clip,
    split_moments,
)

CONFIG = types.SimpleNamespace(
    latent_channels=16,
    video_channels=3,
    compression=(4, 8, 8),
    default_tile=Tile(height=128, stride_height=64),
)


class Odd(VideoVAE):
    """Takes 4k + 1 frames."""


class Both(VideoVAE):
    FRAME_REMAINDERS = (0, 1)


def test_config_dtype_and_default_tile():
    vae = Odd(CONFIG, jnp.bfloat16)
    assert (vae.config, vae.dtype) == (CONFIG, jnp.bfloat16)
    assert vae.default_tile == Tile(height=128, stride_height=64)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            (16, 3, 4, 6),
            r"z of shape \(16, 3, 4, 6\) must be \[B, 16, T, h, w\]; add an axis of one",
        ),
        ((1, 3, 16, 4, 6), r"\[B, 16, T, h, w\]; it has 3 channels, transpose it"),
        ((1, 16, 0, 4, 6), "every axis must hold at least one entry"),
        ((0, 16, 1, 4, 6), "every axis must hold at least one entry"),
    ],
)
def test_latents_that_do_not_fit(shape, message):
    with pytest.raises(ValueError, match=message):
        Odd(CONFIG, jnp.float32)._check_latents(np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        (Odd, (3, 9, 32, 24), r"video of shape .* must be \[B, 3, frames, H, W\]; add an axis"),
        (Odd, (1, 16, 9, 32, 24), "it has 16 channels"),
        (Odd, (1, 3, 0, 32, 24), "every axis must hold at least one entry"),
        (Odd, (1, 3, 16, 32, 24), r"16 frames.* take 4 k \+ 1; cut it to 13 or extend it to 17"),
        (Odd, (1, 3, 2, 32, 24), "cut it to 1 or extend it to 5"),
        (Both, (1, 3, 3, 32, 24), r"take 4 k or 4 k \+ 1; cut it to 1 or extend it to 4"),
        (Both, (1, 3, 10, 32, 24), "cut it to 9 or extend it to 12"),
        (Odd, (1, 3, 9, 30, 24), "30 x 24 pixels, and both must be multiples of 8; crop, pad"),
        (Odd, (1, 3, 9, 32, 20), "32 x 20 pixels"),
    ],
)
def test_videos_that_do_not_fit(kind, shape, message):
    with pytest.raises(ValueError, match=message):
        kind(CONFIG, jnp.float32)._check_video(np.zeros(shape, np.float32))


def test_videos_that_fit():
    for kind, frames in ((Odd, 1), (Odd, 5), (Both, 4), (Both, 5)):
        kind(CONFIG, jnp.float32)._check_video(np.zeros((1, 3, frames, 8, 16), np.float16))


def test_integers_are_refused():
    with pytest.raises(ValueError, match=r"video is uint8 .* scale pixels to \[-1, 1\] first"):
        Odd(CONFIG, jnp.float32)._check_video(np.zeros((1, 3, 1, 8, 8), np.uint8))


def test_channels_move():
    x = jnp.zeros((1, 2, 3, 4, 5))
    assert channels_last(x).shape == (1, 3, 4, 5, 2)
    assert channels_second(channels_last(x)).shape == x.shape


def test_moments_are_split_and_clamped():
    mean, log_variance = split_moments(jnp.asarray([[1e3, 2.0, 1e3, -1e3]]).reshape(1, 4, 1, 1, 1))
    assert mean.ravel().tolist() == [1e3, 2.0]
    assert log_variance.ravel().tolist() == [20.0, -30.0]


def test_layers_get_their_own_caches_and_the_same_arguments():
    def layer(factor):
        return lambda x, cache, *more: (factor * x + sum(more), (factor, cache, *more))

    assert run_layers([layer(2), layer(3)], 1, None) == (6, ((2, None), (3, None)))
    assert run_layers([layer(2), layer(3)], 1, ("a", "b"), 5) == (26, ((2, "a", 5), (3, "b", 5)))


def running_sum(x, cache):
    """The sums of all chunks so far, once for the first chunk and twice for the others."""
    if cache is None:
        return x, x
    return jnp.concatenate([cache + x, cache - x], 2), cache + x


def run(x, **kwargs):
    def chunk(i):
        assert i == 0 if isinstance(i, int) else isinstance(i, jax.core.Tracer)
        return jax.lax.dynamic_slice_in_dim(x, i, 1, 2)

    return scan_clip(running_sum, chunk, x.shape[2], **kwargs)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_is_the_loop_over_chunks(count):
    x = jax.random.normal(jax.random.key(0), (2, 3, count, 4))
    out, cache = running_sum(x[:, :, :1], None)
    parts = [out]
    for i in range(1, count):
        out, cache = running_sum(x[:, :, i : i + 1], cache)
        parts.append(out)
    np.testing.assert_array_equal(run(x), jnp.concatenate(parts, 2))


def test_remat_has_the_same_gradient():
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 4))
    plain, again = (
        jax.grad(lambda x, r=r: jnp.sum(run(x, remat=r) ** 2))(x) for r in (False, True)
    )
    np.testing.assert_array_equal(plain, again)


def test_the_program_does_not_grow_with_the_length():
    sizes = {
        count: len(str(jax.make_jaxpr(run)(jnp.zeros((2, 3, count, 4)))).splitlines())
        for count in (10, 99)
    }
    assert sizes[10] == sizes[99]
