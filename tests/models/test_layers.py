"""The layers of models, against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models import layers
from tests import tolerances

DTYPES = [jnp.float32, jnp.bfloat16]


def norms():
    return {
        "layer": layers.LayerNorm(12, eps=1e-2),
        "rms": layers.RMSNorm(12, eps=1e-2),
        "group": layers.GroupNorm(3, 12, eps=1e-2),
    }


def exact(kind, x, scale, bias):
    x = x.astype(np.float64)
    if kind == "rms":
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-2) * scale
    if kind == "layer":
        y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-2)
    else:
        g = x.reshape(x.shape[0], -1, 3, 4)
        y = (g - g.mean((1, 3), keepdims=True)) / np.sqrt(g.var((1, 3), keepdims=True) + 1e-2)
        y = y.reshape(x.shape)
    return y * scale + bias


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["layer", "rms", "group"])
def test_norms_are_float32_inside(kind, dtype):
    rng = np.random.default_rng(0)
    norm = norms()[kind]
    norm.scale.set_value(jnp.asarray(rng.normal(1, 0.2, 12), jnp.float32))
    if kind != "rms":
        norm.bias.set_value(jnp.asarray(rng.normal(0, 0.2, 12), jnp.float32))
    x = jnp.asarray(rng.normal(3, 1, (2, 3, 5, 12)), dtype)
    bias = np.asarray(norm.bias[...], np.float64) if kind != "rms" else None
    want = exact(kind, np.asarray(x), np.asarray(norm.scale[...], np.float64), bias)
    got = jax.jit(lambda n, x: n(x))(norm, x)
    assert got.dtype == dtype
    # one rounding to the result's dtype; before it float32: means of 12 or 60 numbers three times the result's size
    more = tolerances.rounding(9 * 30) * np.abs(want).max() if dtype == jnp.bfloat16 else 0.0
    n = 1 if dtype == jnp.bfloat16 else 9 * 30
    tolerances.assert_rounding_apart(got, want, n, kind, dtype=dtype, more=more)


def test_a_norm_without_affine_has_no_parameters():
    assert not jax.tree.leaves(nnx.state(layers.LayerNorm(4, eps=1e-6, affine=False), nnx.Param))


@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_and_conv_hold_and_compute_in_their_dtype(dtype, key):
    linear = layers.Linear(4, 6, dtype=dtype, rngs=nnx.Rngs(0))
    conv = layers.Conv(4, 6, (2, 1, 2), dtype=dtype, bias=False, rngs=nnx.Rngs(0))
    x = jax.random.normal(key, (1, 3, 3, 3, 4))
    assert linear(x).dtype == conv(x).dtype == dtype
    assert linear.kernel[...].dtype == linear.bias[...].dtype == conv.kernel[...].dtype == dtype
    assert conv.bias is None
    assert conv(x).shape == (1, 2, 3, 2, 6)
    want = np.einsum(
        "bthwi,io->bthwo", *(np.asarray(a, np.float64) for a in (x, linear.kernel[...]))
    )
    tolerances.assert_rounding_apart(linear(x), want, 4, "linear", dtype=dtype)


def test_an_mlp_is_two_linears_with_the_activation_between(key):
    mlp = layers.MLP(4, 8, 6, jnp.tanh, dtype=jnp.float32, rngs=nnx.Rngs(0))
    x = jax.random.normal(key, (2, 3, 4))
    assert mlp.linear_1.kernel.shape == (4, 8)
    np.testing.assert_array_equal(mlp(x), mlp.linear_2(jnp.tanh(mlp.linear_1(x))))


def test_patches_are_embedded_in_raster_order(key):
    embed = layers.PatchEmbed(2, 6, (1, 2, 2), dtype=jnp.float32, rngs=nnx.Rngs(0))
    video = jax.random.normal(key, (2, 2, 2, 4, 6))
    tokens = embed(video)
    assert tokens.shape == (2, 2 * 2 * 3, 6)
    patch = np.asarray(video, np.float64)[:, :, 1, 2:, 2:4]  # frame 1, row 1, column 1
    want = np.einsum("bchw,hwco->bo", patch, np.asarray(embed.proj.kernel[0], np.float64))
    tolerances.assert_rounding_apart(tokens[:, 6 + 3 + 1], want, 4, "a patch")


def test_an_embedding_looks_up_rows():
    table = layers.Embedding(5, 3, dtype=jnp.float32, rngs=nnx.Rngs(0))
    ids = jnp.asarray([[4, 0]])
    np.testing.assert_array_equal(table(ids)[0, 0], table.embedding[4])


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounded_operands_and_gradients_match_float64(key, dtype):
    linear = layers.Linear(24, 16, dtype=jnp.float32, operands=dtype, rngs=nnx.Rngs(0))
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


def test_a_matrix_starts_as_it_is_told_to():
    zeros = nnx.initializers.zeros_init()
    linear = layers.Linear(4, 3, dtype=jnp.float32, kernel_init=zeros, rngs=nnx.Rngs(0))
    assert not np.asarray(linear(jnp.ones((2, 4)))).any()


def test_layers_of_one_dtype_of_operands_are_one_to_a_compiler():
    one, other = (
        layers.Linear(4, 3, dtype=jnp.float32, operands=dtype, rngs=nnx.Rngs(0))
        for dtype in (jnp.bfloat16, "bfloat16")
    )
    assert jax.tree.structure(one) == jax.tree.structure(other)


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
