import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.attention import LayerAttention
from sparsevdit_jax import Phase, StepContext, VideoGrid
from sparsevdit_jax.patterns import Dense, Skip
from tests.models.cogvideox.tiny_models import load

GRID = VideoGrid(2, 2, 3, text_len=5, text_first=True)


@pytest.fixture(scope="module")
def block():
    return load("cogvideox_5b_i2v").transformer_blocks[0]


@pytest.fixture(scope="module")
def tokens():
    return jax.random.normal(jax.random.key(0), (2, GRID.num_tokens, 32))


@pytest.fixture(scope="module")
def vector():
    return jax.random.normal(jax.random.key(1), (2, 16))


def test_text_and_video_have_their_own_modulation(block, tokens, vector):
    shift, scale, gate, *of_text = jnp.split(
        block.norm1.linear(jax.nn.silu(vector))[:, None], 6, -1
    )
    out, gates = block.norm1(tokens, vector, 5)
    normed = block.norm1.norm(tokens)
    text_shift, text_scale, text_gate = of_text
    for rows, a, b, c in (
        (slice(5), text_shift, text_scale, text_gate),
        (slice(5, None), shift, scale, gate),
    ):
        np.testing.assert_allclose(out[:, rows], normed[:, rows] * (1 + b) + a, atol=1e-6)
        np.testing.assert_array_equal(gates[:, rows], jnp.broadcast_to(c, gates[:, rows].shape))


def test_gates_and_residuals(block, tokens, vector):
    # With attention to nothing, what is left is the bias of its output, the gates and the MLP.
    ctx = StepContext(GRID, Phase.REUSE)
    out, state = block(tokens, vector, None, layer=LayerAttention(Skip(), (), ctx))
    assert state == ()
    _, gate = block.norm1(tokens, vector, 5)
    h = tokens + gate * block.attn1.to_out.bias[...][None, None]
    m, gate = block.norm2(h, vector, 5)
    np.testing.assert_allclose(out, h + gate * block.ff(m), atol=1e-5)


def test_a_rotation_by_nothing_changes_nothing(block, tokens):
    layer = LayerAttention(Dense(), (), StepContext(GRID, Phase.DENSE))
    rope = jnp.ones((GRID.num_tokens, 8)), jnp.zeros((GRID.num_tokens, 8))
    plain, _ = block.attn1(tokens, layer)
    rotated, _ = block.attn1(tokens, layer, rope=rope)
    np.testing.assert_array_equal(rotated, plain)
    turn = rope[0].at[7:].set(0.6), rope[1].at[7:].set(0.8)
    turned, _ = block.attn1(tokens, layer, rope=turn)
    assert float(jnp.abs(turned - plain).max()) > 1e-3


def test_output_norm_shifts_first(tokens, vector):
    norm = load("cogvideox_5b_i2v").norm_out
    shift, scale = jnp.split(norm.linear(jax.nn.silu(vector))[:, None], 2, -1)
    np.testing.assert_allclose(
        norm(tokens, vector), norm.norm(tokens) * (1 + scale) + shift, atol=1e-6
    )


def test_norms_of_q_and_k_have_another_eps_than_those_of_tokens(block):
    # On inputs as small as these eps is most of the denominator, so 1e-5 and 1e-6 are far apart.
    for norm, eps in (
        (block.attn1.norm_q, 1e-6),
        (block.attn1.norm_k, 1e-6),
        (block.norm1.norm, 1e-5),
    ):
        scale, bias = norm.scale[...], norm.bias[...]
        x = 1e-3 * jax.random.normal(jax.random.key(2), (3, *scale.shape))
        centred = x - x.mean(-1, keepdims=True)
        normed = centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + eps)
        np.testing.assert_allclose(norm(x), normed * scale[None] + bias[None], atol=1e-5)
