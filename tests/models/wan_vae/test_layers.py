import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.video_vae import run_layers
from models.wan_vae import layers
from tests.models.random_weights import random_module
from tests.models.wan_vae.tiny import wave

X = wave((2, 4, 4, 6, 8), 0.7)


def build(cls, *args, **kwargs):
    return random_module(cls, *args, **kwargs, dtype=jnp.float32)


@jax.jit
def call(layer, x, cache):
    return layer(x, cache)


def test_rms_norm_has_no_epsilon_but_a_floor():
    norm = layers.RMSNorm(8, dtype=jnp.float32)
    assert norm.gamma.shape == (8, 1, 1, 1)
    assert layers.RMSNorm(8, axes=2, dtype=jnp.float32).gamma.shape == (8, 1, 1)
    norm.gamma[...] = wave((8, 1, 1, 1), 1.1)
    x = np.asarray(X, np.float64)
    want = x / np.linalg.norm(x, axis=-1, keepdims=True) * np.sqrt(8) * np.cos(1.1 * np.arange(8))
    np.testing.assert_allclose(norm(X), want, atol=1e-6)
    np.testing.assert_allclose(norm(1e-10 * X), want, atol=1e-5)  # an eps of 1e-6 gives about 0
    value, gradient = jax.value_and_grad(lambda x: norm(x).sum())(jnp.zeros((1, 8)))
    assert value == 0
    assert jnp.isfinite(gradient).all()
    assert norm(X.astype(jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("cls", "args", "kwargs"),
    [
        (layers.CausalConv, (8, 4), {}),
        (layers.CausalConv, (8, 8), {"spatial": 1}),
        (layers.ResidualBlock, (8, 4), {}),
        (layers.ResidualBlock, (8, 8), {}),
        (layers.Upsample, (8, 4), {"in_time": True}),
        (layers.Downsample, (8,), {"in_time": True}),
    ],
)
def test_chunks_of_any_length_give_the_same_and_never_see_what_comes(cls, args, kwargs):
    layer = build(cls, *args, **kwargs)
    x = wave((1, 5, 4, 6, 8), 0.7)

    def run(x, *lengths):
        outs, cache, start = [], None, 0
        for n in lengths:
            out, cache = call(layer, x[:, start : start + n], cache)
            outs.append(out)
            start += n
        return jnp.concatenate(outs, 1)

    whole = run(x, 1, 4)
    np.testing.assert_allclose(run(x, 1, 2, 2), whole, atol=1e-6)
    changed = run(x.at[:, 3:].add(1.0), 1, 4)
    same = whole.shape[1] * 3 // 5
    np.testing.assert_allclose(changed[:, :same], whole[:, :same], atol=1e-6)
    assert float(jnp.abs(changed[:, same:] - whole[:, same:]).max()) > 1e-3


def test_upsampling_in_time_keeps_the_first_frame_and_forgets_it():
    layer = build(layers.Upsample, 8, 4, in_time=True)
    first, cache = call(layer, X[:, :1], None)
    assert first.shape == (2, 1, 8, 12, 4)
    assert cache.shape == (2, 2, 4, 6, 8)
    assert not cache.any()
    second, cache = call(layer, X[:, 1:3], cache)
    assert second.shape == (2, 4, 8, 12, 4)
    np.testing.assert_array_equal(cache, X[:, 1:3])


def test_upsampling_repeats_pixels():
    layer = build(layers.Upsample, 8, 4, in_time=False)
    kernel = jnp.zeros((3, 3, 8, 4)).at[1, 1, :4].set(jnp.eye(4))
    layer.resample.kernel[...] = kernel
    layer.resample.bias[...] = jnp.zeros(4)
    out, cache = call(layer, X, None)
    assert cache is None
    np.testing.assert_allclose(out, jnp.repeat(jnp.repeat(X[..., :4], 2, 2), 2, 3), atol=1e-6)


def test_downsampling_pads_right_and_bottom_and_keeps_the_first_frame():
    layer = build(layers.Downsample, 8, in_time=True)
    layer.resample.kernel[...] = jnp.zeros((3, 3, 8, 8)).at[0, 0].set(jnp.eye(8))
    layer.resample.bias[...] = jnp.zeros(8)
    first, cache = call(layer, X[:, :1], None)
    np.testing.assert_allclose(first, X[:, :1, ::2, ::2], atol=1e-6)
    np.testing.assert_array_equal(cache, first)
    rest, cache = call(layer, X, cache)
    assert rest.shape == (2, 2, 2, 3, 8)
    np.testing.assert_allclose(cache, X[:, -1:, ::2, ::2], atol=1e-6)


def test_attention_is_softmax_within_each_frame():
    layer = build(layers.FrameAttention, 8)
    out = jax.jit(lambda m, x: m(x))(layer, X)
    frame = X[1, 2].reshape(-1, 8)
    normed = layer.norm(frame)
    qkv = normed @ layer.to_qkv.kernel[0, 0] + layer.to_qkv.bias[...][None]
    q, k, v = jnp.split(qkv, 3, -1)
    y = jax.nn.softmax(q @ k.T / np.float32(np.sqrt(8)), -1) @ v
    want = frame + y @ layer.proj.kernel[0, 0] + layer.proj.bias[...][None]
    np.testing.assert_allclose(out[1, 2].reshape(-1, 8), want, atol=2e-6)


def test_residual_blocks_and_the_mid_block_run_as_layers():
    blocks = layers.residual_blocks(8, 4, 2, dtype=jnp.float32, rngs=nnx.Rngs(0))
    assert [block.conv1.kernel.shape[-2:] for block in blocks] == [(8, 4), (4, 4)]
    run = jax.jit(run_layers)
    y, cache = run(blocks, X, None)
    z, part = call(blocks[0], X, None)
    z, other = call(blocks[1], z, None)
    np.testing.assert_allclose(y, z, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), cache, (part, other))
    mid = build(layers.MidBlock, 8)
    y, cache = call(mid, X, None)
    assert y.shape == X.shape
    assert len(cache) == 2
