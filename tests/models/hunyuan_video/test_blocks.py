import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.attention import LayerAttention
from models.hunyuan_video import HunyuanVideoConfig
from models.hunyuan_video.blocks import DualStreamBlock, SingleStreamBlock, modulated_norm
from models.rope import rope_table
from sparsevdit_jax import Phase, StepContext, VideoGrid
from sparsevdit_jax.patterns import Dense

CONFIG = HunyuanVideoConfig(
    num_attention_heads=2, attention_head_dim=8, rope_axes_dim=(2, 2, 4), mlp_ratio=1.5
)
GRID = VideoGrid(2, 2, 3, text_len=4)


@jax.jit
def run(block, carry, vector, text_lengths):
    ctx = StepContext(GRID, Phase.DENSE, text_lengths=text_lengths)
    rope = tuple(jnp.asarray(part) for part in rope_table(GRID.shape, 8, axes=(2, 2, 4)))
    return block(carry, vector, rope, layer=LayerAttention(Dense(), (), ctx))[0]


@pytest.fixture(scope="module")
def arrays():
    shapes = (2, 12, 16), (2, 4, 16), (2, 16)
    return [jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes)]


def test_dual_block_ignores_padded_text(arrays):
    video, text, vector = arrays
    block = DualStreamBlock(CONFIG, dtype=jnp.float32, rngs=nnx.Rngs(0))
    lengths = jnp.array([4, 1])
    out, text_out = run(block, (video, text), vector, lengths)
    again, text_again = run(block, (video, text.at[1, 1:].set(9.0)), vector, lengths)
    np.testing.assert_array_equal(out, again)
    np.testing.assert_array_equal(text_out[1, :1], text_again[1, :1])
    other, _ = run(block, (video, text.at[1, 0].set(9.0)), vector, lengths)
    assert np.abs(np.asarray(other - out))[1].max() > 1e-3


def test_single_block_ignores_padded_text(arrays):
    video, text, vector = arrays
    block = SingleStreamBlock(CONFIG, dtype=jnp.float32, rngs=nnx.Rngs(0))
    lengths = jnp.array([4, 1])
    out = run(block, jnp.concatenate([video, text], 1), vector, lengths)
    again = run(block, jnp.concatenate([video, text.at[1, 1:].set(9.0)], 1), vector, lengths)
    np.testing.assert_array_equal(out[0], again[0])
    np.testing.assert_array_equal(out[1, :13], again[1, :13])


def test_feed_forward_width_follows_mlp_ratio():
    block = SingleStreamBlock(CONFIG, dtype=jnp.float32, rngs=nnx.Rngs(0))
    assert block.proj_mlp.kernel.shape == (16, 24)
    assert block.proj_out.kernel.shape == (40, 16)


def test_modulation_norm_is_float32(key):
    # In bfloat16 the mean of 1000 + x would swallow x.
    x = 1000 + jax.random.normal(key, (1, 3, 64)) * 30
    zero = jnp.zeros((1, 1, 64), jnp.bfloat16)
    got = modulated_norm(x.astype(jnp.bfloat16), zero, zero)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(got.astype(jnp.float32).std(-1)), 1.0, atol=0.01)
