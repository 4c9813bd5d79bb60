import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models import layers
from tests import tolerances


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_linear_and_its_gradients_match_float64(key, dtype):
    linear = layers.Linear(24, 16, dtype=dtype, rngs=nnx.Rngs(0))
    x = jax.random.normal(key, (2, 5, 24))
    cotangent = jax.random.normal(jax.random.key(9), (2, 5, 16))
    graph, params = nnx.split(linear)

    y, pull = jax.vjp(lambda p, x: nnx.merge(graph, p)(x), params, x)
    grad_params, grad_x = pull(cotangent)

    w, x64, c64 = (np.asarray(a, np.float64) for a in (linear.kernel[...], x, cotangent))
    assert y.dtype == jnp.float32
    assert grad_x.dtype == jnp.float32
    # In bfloat16 both operands are rounded, and their products are added in float32.
    wide = dtype == jnp.float32
    for name, got, want, terms in (
        ("y", y, x64 @ w, 24),
        ("x", grad_x, c64 @ w.T, 16),
        ("kernel", grad_params.kernel[...], np.einsum("bli,blo->io", x64, c64), 10),
    ):
        n = terms / 2 if wide else 2
        tolerances.assert_rounding_apart(got, want, n, name, dtype=dtype)
    tolerances.assert_rounding_apart(grad_params.bias[...], c64.sum((0, 1)), 10 / 2, "bias")


def test_zero_init_gives_zero():
    linear = layers.Linear(4, 3, zero_init=True, rngs=nnx.Rngs(0))
    assert not np.asarray(linear(jnp.ones((2, 4)))).any()


def test_norms_match_their_definitions(key):
    x = np.asarray(3 * jax.random.normal(key, (2, 3, 8)) + 1, np.float64)
    weight = np.linspace(0.5, 2, 8)
    rms = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * weight
    np.testing.assert_allclose(layers.rms_norm(jnp.float32(x), jnp.float32(weight)), rms, rtol=2e-6)
    standard = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(layers.layer_norm(jnp.float32(x)), standard, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("activation", [layers.silu, layers.gelu_tanh])
def test_activations_are_float32_inside_and_round_once(activation):
    x = jnp.linspace(-5, 5, 101).astype(jnp.bfloat16)
    y = np.float64(x)
    inner = np.sqrt(8 / np.pi) * (y + 0.044715 * y**3) if activation is layers.gelu_tanh else y
    exact = jnp.asarray(y / (1 + np.exp(-inner)), jnp.float32)  # (1 + tanh(a)) / 2 = sigmoid(2 a)
    got = activation(x.astype(jnp.float32))
    np.testing.assert_allclose(got, exact, atol=2e-6)
    np.testing.assert_array_equal(activation(x), got.astype(jnp.bfloat16))


def test_heads_are_adjacent_channels_and_scale_comes_before_shift():
    x = jnp.arange(24.0).reshape(1, 2, 12)
    np.testing.assert_array_equal(layers.split_heads(x, 3)[0, 1, 2], x[0, 1, 8:])
    np.testing.assert_array_equal(layers.modulate(x, 1.0, 2.0), 3 * x + 1)


def test_sinusoids_start_with_cosines_at_frequency_one():
    embedding = layers.sinusoidal_embedding(jnp.array([0.0, 2.0]), 8)
    np.testing.assert_allclose(embedding[0], [1, 1, 1, 1, 0, 0, 0, 0])
    np.testing.assert_allclose(embedding[1, 0], np.cos(2.0), rtol=1e-6)
    np.testing.assert_allclose(embedding[1, 5], np.sin(2.0 * 10_000 ** (-1 / 4)), rtol=1e-6)


def test_patches_are_in_raster_order_and_come_back():
    video = jnp.arange(2 * 4 * 4 * 6 * 2, dtype=jnp.float32).reshape(2, 4, 4, 6, 2)
    tokens = layers.patchify(video, (2, 2, 3))
    assert tokens.shape == (2, 2 * 2 * 2, 2 * 2 * 3 * 2)
    np.testing.assert_array_equal(tokens[1, 1].reshape(2, 2, 3, 2), video[1, :2, :2, 3:])
    np.testing.assert_array_equal(layers.unpatchify(tokens, (2, 2, 2), (2, 2, 3)), video)


def test_channels_can_come_first_in_a_patch():
    video = jnp.arange(2 * 4 * 4 * 6 * 2, dtype=jnp.float32).reshape(2, 4, 4, 6, 2)
    tokens = layers.patchify(video, (2, 2, 3), channels_first=True)
    patch = tokens[1, 1].reshape(2, 2, 2, 3)
    np.testing.assert_array_equal(patch, video[1, :2, :2, 3:].transpose(3, 0, 1, 2))
    back = layers.unpatchify(tokens, (2, 2, 2), (2, 2, 3), channels_first=True)
    np.testing.assert_array_equal(back, video)


def test_shapes_are_numbers_and_names():
    layers.check_shape("x", (2, 7), (1,), (2, "tokens"))
    message = r"x has shape \(2, 7\); it must be \[1\] or \[tokens, 8\]"
    with pytest.raises(ValueError, match=message):
        layers.check_shape("x", (2, 7), (1,), ("tokens", 8))


def test_a_video_that_does_not_divide_is_refused():
    with pytest.raises(
        ValueError, match=r"\(3, 4, 4\) pixels does not divide into patches of \(2, 2, 2\)"
    ):
        layers.patchify(jnp.zeros((1, 3, 4, 4, 1)), (2, 2, 2))
