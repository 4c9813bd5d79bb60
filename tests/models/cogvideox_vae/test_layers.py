import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.cogvideox_vae.layers import (
    CausalConv,
    DownLevel,
    Downsample,
    Level,
    ResnetBlock,
    SpatialNorm,
    UpLevel,
    Upsample,
    enlarge,
)
from tests import tolerances

PLAIN = dict(groups=2, eps=1e-6, latent_channels=None, dtype=jnp.float32)


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def test_causal_conv_sees_the_past_alone_and_starts_from_its_first_frame():
    conv = CausalConv(3, 4, dtype=jnp.float32, rngs=nnx.Rngs(0))
    x = normal(0, 2, 5, 4, 3, 3)
    whole, cache = conv(x, None)
    assert whole.shape == (2, 5, 4, 3, 4)
    np.testing.assert_array_equal(cache, x[:, -2:])

    first, cache = conv(x[:, :1], None)
    np.testing.assert_array_equal(cache, jnp.concatenate([x[:, :1]] * 2, 1))
    second, cache = conv(x[:, 1:3], cache)
    third, _ = conv(x[:, 3:], cache)
    parts = jnp.concatenate([first, second, third], 1)
    np.testing.assert_allclose(parts, whole, atol=1e-6)

    still = conv.conv(jnp.concatenate([x[:, :1]] * 3, 1))  # the past is the first frame itself
    np.testing.assert_allclose(whole[:, :1], still, atol=1e-6)
    changed, _ = conv(x.at[:, 3].add(1.0), None)
    np.testing.assert_array_equal(changed[:, :3], whole[:, :3])


@pytest.mark.parametrize(
    ("t", "frames", "order"),
    [
        (1, 1, [0]),
        (2, 2, [0, 1]),
        (2, 4, [0, 0, 1, 1]),
        (3, 3, [0, 1, 2]),
        (3, 5, [0, 1, 1, 2, 2]),
        (3, 9, [0, 1, 1, 1, 1, 2, 2, 2, 2]),
    ],
)
def test_enlarge_repeats_frames_and_pixels(t, frames, order):
    x = normal(0, 1, t, 2, 3, 1)
    got = enlarge(x, frames, 2)
    want = np.asarray(x)[:, order].repeat(2, 2).repeat(2, 3)
    np.testing.assert_array_equal(got, want)


def test_spatial_norm_is_group_norm_scaled_and_shifted_by_the_enlarged_latent():
    norm = SpatialNorm(4, 3, groups=2, dtype=jnp.float32, rngs=nnx.Rngs(0))
    x, z = 2 + normal(0, 1, 5, 4, 4, 4), normal(1, 1, 3, 2, 2, 3)
    # As the original does it: enlarge first, convolve then.
    large = enlarge(z, 5, 2)
    groups = np.asarray(x, np.float64).reshape(1, -1, 2, 2)
    mean, var = groups.mean((1, 3), keepdims=True), groups.var((1, 3), keepdims=True)
    want = ((groups - mean) / np.sqrt(var + 1e-6)).reshape(x.shape)
    want = want * np.asarray(norm.conv_y(large)) + np.asarray(norm.conv_b(large))
    # Sums of 160 numbers for mean and variance, and of three in each convolution.
    tolerances.assert_rounding_apart(norm(x, z), want, 160, "spatial norm")


@pytest.mark.parametrize(("frames", "left"), [(1, 1), (2, 1), (4, 2), (5, 3), (9, 5)])
def test_downsample_averages_pairs_and_keeps_an_odd_first_frame(frames, left):
    x = normal(0, 1, frames, 4, 6, 2)
    down = Downsample(2, halve_time=True, dtype=jnp.float32, rngs=nnx.Rngs(0))
    got = down(x)
    assert got.shape == (1, left, 2, 3, 2)
    alone = frames % 2
    pairs = [(x[:, i] + x[:, i + 1]) / 2 for i in range(alone, frames, 2)]
    means = jnp.stack([*(x[:, i] for i in range(alone)), *pairs], 1)
    padded = jnp.pad(means, ((0, 0), (0, 0), (0, 1), (0, 1), (0, 0)))
    kernel, bias = down.conv.kernel[...], down.conv.bias[...]
    corner = jnp.einsum("bthwi,hwio->bto", padded[:, :, 2:5, 4:7], kernel) + bias[None, None]
    np.testing.assert_allclose(got[:, :, 1, 2], corner, atol=1e-5)

    kept = Downsample(2, halve_time=False, dtype=jnp.float32, rngs=nnx.Rngs(0))(x)
    assert kept.shape == (1, frames, 2, 3, 2)


@pytest.mark.parametrize(("frames", "double"), [(1, 1), (2, 4), (3, 5), (4, 8), (5, 9)])
def test_upsample_doubles_all_but_an_odd_first_frame(frames, double):
    x = normal(0, 1, frames, 2, 3, 2)
    up = Upsample(2, double_time=True, dtype=jnp.float32, rngs=nnx.Rngs(0))
    assert up(x).shape == (1, double, 4, 6, 2)
    up = Upsample(2, double_time=False, dtype=jnp.float32, rngs=nnx.Rngs(0))
    assert up(x).shape == (1, frames, 4, 6, 2)


def test_resnet_block_adds_a_shortcut_where_channels_change():
    same = ResnetBlock(4, 4, **PLAIN, rngs=nnx.Rngs(0))
    assert same.conv_shortcut is None
    block = ResnetBlock(4, 6, **PLAIN, rngs=nnx.Rngs(0))
    x = normal(0, 1, 2, 3, 3, 4)
    y, caches = block(x, None)
    assert y.shape == (1, 2, 3, 3, 6)
    assert [cache.shape for cache in caches] == [(1, 2, 3, 3, 4), (1, 2, 3, 3, 6)]
    block.conv2.conv.kernel[...] = jnp.zeros_like(block.conv2.conv.kernel[...])
    np.testing.assert_array_equal(block(x, None)[0], block.conv_shortcut(x))


@pytest.mark.parametrize("kind", [Level, DownLevel, UpLevel])
def test_caches_keep_structure_and_shape_from_chunk_to_chunk(kind):
    extra = {
        Level: {},
        DownLevel: {"last": False, "halve_time": True},
        UpLevel: {"last": False, "double_time": True},
    }[kind]
    arguments = dict(PLAIN, latent_channels=3) if kind is UpLevel else PLAIN
    level = kind(4, 6, 2, **arguments, **extra, rngs=nnx.Rngs(0))
    z = normal(0, 1, 3, 2, 2, 3) if kind is UpLevel else None
    x, caches = normal(1, 1, 3, 2, 2, 4), None
    shapes = []
    for _ in range(2):
        y, caches = level(x, caches, *(() if z is None else (z,)))
        shapes.append(jax.tree.map(jnp.shape, caches))
        x, z = x[:, :2], None if z is None else z[:, :2]
    assert shapes[0] == shapes[1]
    assert len(caches) == 2
    assert (
        y.shape
        == {
            Level: (1, 2, 2, 2, 6),
            DownLevel: (1, 1, 1, 1, 6),
            UpLevel: (1, 4, 4, 4, 6),
        }[kind]
    )


def test_the_last_level_has_no_sampler():
    down = DownLevel(4, 4, 1, last=True, halve_time=False, **PLAIN, rngs=nnx.Rngs(0))
    up = UpLevel(4, 4, 1, last=True, double_time=False, **PLAIN, rngs=nnx.Rngs(0))
    assert not down.downsamplers
    assert not up.upsamplers
