import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.wan import WanConfig
from models.wan.conditioning import gelu
from tests.models.wan.tiny_models import SMALL, build, small_inputs


def test_first_and_last_frame_are_one_image_with_positions():
    """With `pos_embed_seq_len`, two images [2 B, N, D] are the sequence [B, 2 N, D] plus a table."""
    config = WanConfig(**vars(SMALL) | {"image_dim": 6, "added_kv_proj_dim": 24})
    model = build(dataclasses.replace(config, pos_embed_seq_len=6))
    single = build(config).condition_embedder.image_embedder
    double = model.condition_embedder.image_embedder
    single.norm1, single.ff, single.norm2 = double.norm1, double.ff, double.norm2
    images = jax.random.normal(jax.random.key(2), (4, 3, 6))
    joined = images.reshape(2, 6, 6) + double.pos_embed[...].repeat(2, 0)
    embed = jax.jit(lambda part, image: part(image))
    np.testing.assert_allclose(embed(double, images), embed(single, joined), atol=1e-6)
    with pytest.raises(ValueError, match=r"image has shape \(4, 2, 6\); it must be \[4, 3, 6\]"):
        model(**small_inputs((2, 4, 4), text=512), encoder_hidden_states_image=images[:, :2])


def test_the_images_gelu_is_exact_and_rounds_once():
    x = np.linspace(-4, 4, 65, dtype=np.float32)
    exact = np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x.astype(float)])
    np.testing.assert_allclose(gelu(jnp.asarray(x)), exact, atol=2e-6)
    rounded = gelu(jnp.asarray(x, jnp.bfloat16))
    again = gelu(jnp.asarray(x, jnp.bfloat16).astype(jnp.float32)).astype(jnp.bfloat16)
    np.testing.assert_array_equal(rounded, again)
