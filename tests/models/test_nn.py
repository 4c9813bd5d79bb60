"""Modules that hold checkpoint weights, against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models import nn
from tests import tolerances

DTYPES = [jnp.float32, jnp.bfloat16]


def norms():
    return {
        "layer": nn.LayerNorm(12, eps=1e-2),
        "rms": nn.RMSNorm(12, eps=1e-2),
        "group": nn.GroupNorm(3, 12, eps=1e-2),
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
    assert not jax.tree.leaves(nnx.state(nn.LayerNorm(4, eps=1e-6, affine=False), nnx.Param))


@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_and_conv_hold_and_compute_in_their_dtype(dtype, key):
    linear = nn.Linear(4, 6, dtype=dtype, rngs=nnx.Rngs(0))
    conv = nn.Conv(4, 6, (2, 1, 2), dtype=dtype, bias=False, rngs=nnx.Rngs(0))
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
    mlp = nn.MLP(4, 8, 6, jnp.tanh, dtype=jnp.float32, rngs=nnx.Rngs(0))
    x = jax.random.normal(key, (2, 3, 4))
    assert mlp.linear_1.kernel.shape == (4, 8)
    np.testing.assert_array_equal(mlp(x), mlp.linear_2(jnp.tanh(mlp.linear_1(x))))


def test_patches_are_embedded_in_raster_order(key):
    embed = nn.PatchEmbed(2, 6, (1, 2, 2), dtype=jnp.float32, rngs=nnx.Rngs(0))
    video = jax.random.normal(key, (2, 2, 2, 4, 6))
    tokens = embed(video)
    assert tokens.shape == (2, 2 * 2 * 3, 6)
    patch = np.asarray(video, np.float64)[:, :, 1, 2:, 2:4]  # frame 1, row 1, column 1
    want = np.einsum("bchw,hwco->bo", patch, np.asarray(embed.proj.kernel[0], np.float64))
    tolerances.assert_rounding_apart(tokens[:, 6 + 3 + 1], want, 4, "a patch")


def test_an_embedding_looks_up_rows():
    table = nn.Embedding(5, 3, dtype=jnp.float32, rngs=nnx.Rngs(0))
    ids = jnp.asarray([[4, 0]])
    np.testing.assert_array_equal(table(ids)[0, 0], table.embedding[4])


def test_a_planned_model_has_shapes_alone_and_is_made_once():
    def linear(config, *, dtype, rngs):
        return nn.Linear(*config, dtype=dtype, rngs=rngs)

    model = nn.planned(linear, (2, 3), jnp.dtype("bfloat16"))
    leaves = jax.tree.leaves(nnx.state(model))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
    assert (model.kernel.shape, model.kernel.dtype) == ((2, 3), jnp.bfloat16)
    assert nn.planned(linear, (2, 3), jnp.dtype("bfloat16")) is model
    assert nn.without_weights(linear, (2, 3), jnp.dtype("bfloat16")) is not model
