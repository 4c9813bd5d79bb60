import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.cogvideox import CogVideoXConfig
from models.cogvideox.embeddings import PatchEmbed
from tests.models.cogvideox.tiny_models import load

SMALL = {"num_attention_heads": 1, "attention_head_dim": 16, "text_embed_dim": 3, "in_channels": 2}


def test_patch_vectors_are_channel_first():
    # 1.5's patch embedding is a matrix over (channel, frame, row, column).
    config = CogVideoXConfig(
        **SMALL, patch_size_t=2, patch_bias=False, use_rotary_positional_embeddings=True
    )
    embed = PatchEmbed(config, dtype=jnp.float32, rngs=nnx.Rngs(0))
    assert embed.proj.bias is not None  # whatever patch_bias says
    embed.proj.kernel[...] = jnp.eye(16)
    video = jnp.arange(2 * 4 * 2 * 4 * 6, dtype=jnp.float32).reshape(2, 4, 2, 4, 6)
    tokens = embed(jnp.zeros((2, 5, 3)), video)[:, 5:].reshape(2, 2, 2, 3, 2, 2, 2, 2)
    for t, h, w in np.ndindex(2, 2, 3):
        patch = video[:, 2 * t : 2 * t + 2, :, 2 * h : 2 * h + 2, 2 * w : 2 * w + 2]
        np.testing.assert_array_equal(tokens[:, t, h, w], patch.swapaxes(1, 2))


def test_text_gets_no_sines():
    config = CogVideoXConfig(**SMALL)
    embed = PatchEmbed(config, dtype=jnp.float32, rngs=nnx.Rngs(0))
    text = jax.random.normal(jax.random.key(0), (1, 5, 3))
    out = embed(text, jnp.zeros((1, 1, 2, 4, 4)))
    np.testing.assert_array_equal(out[:, :5], embed.text_proj(text))
    assert float(jnp.abs(out[0, 5] - out[0, 6]).max()) > 0.1


def test_patch_bias_of_a_convolution_can_be_absent():
    embed = PatchEmbed(
        CogVideoXConfig(**SMALL, patch_bias=False), dtype=jnp.float32, rngs=nnx.Rngs(0)
    )
    assert embed.proj.bias is None


@pytest.mark.parametrize(("text", "height"), [(4, 4), (5, 6)])
def test_learned_positions_belong_to_one_canvas(text, height):
    embed = load("cogvideox_5b_i2v").patch_embed
    with pytest.raises(ValueError, match=f"{text} text tokens and {height // 2} x 4 tokens .* pad"):
        embed(jnp.zeros((1, text, 20)), jnp.zeros((1, 3, 4, height, 8)))
