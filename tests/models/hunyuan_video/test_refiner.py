import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.config import config_from_json
from models.hunyuan_video import HunyuanVideoConfig, HunyuanVideoTransformer
from models.hunyuan_video.refiner import TokenRefiner
from models.hunyuan_video.weights import KEYS
from tests.models import parity

CONFIG = HunyuanVideoConfig(
    num_attention_heads=2,
    attention_head_dim=8,
    rope_axes_dim=(2, 2, 4),
    text_embed_dim=6,
    num_refiner_layers=2,
    mlp_ratio=2.0,
)


@pytest.fixture(scope="module")
def refiner():
    return TokenRefiner(CONFIG, dtype=jnp.float32, rngs=nnx.Rngs(0))


@jax.jit
def run(refiner, text, mask):
    return refiner(text, jnp.full(mask.shape[0], 500.0), mask)


def test_padding_changes_no_real_token(refiner, key):
    text = jax.random.normal(key, (2, 5, 6))
    mask = jnp.arange(5)[None] < jnp.array([[5], [3]])
    other = jnp.where(mask[..., None], text, 100 + text)
    out = run(refiner, text, mask)
    np.testing.assert_array_equal(
        np.asarray(out)[np.asarray(mask)], np.asarray(run(refiner, other, mask))[np.asarray(mask)]
    )
    alone = run(refiner, text[1:, :3], mask[1:, :3])
    np.testing.assert_allclose(out[1:, :3], alone, atol=2e-6)


def test_padded_rows_take_the_first_token_and_no_text_is_finite(refiner, key):
    text = jax.random.normal(key, (1, 4, 6))
    mask = jnp.array([[True, True, False, False]])
    out = run(refiner, text, mask)
    moved = run(refiner, text.at[0, 1].set(text[0, 1] + 1).at[0, 3].set(text[0, 3] + 1), mask)
    assert not np.allclose(out[0, 2], moved[0, 2])  # through the mean of real tokens
    assert np.isfinite(run(refiner, text, jnp.zeros((1, 4), bool))).all()


def test_feed_forward_width_does_not_follow_mlp_ratio(refiner):
    assert refiner.token_refiner.refiner_blocks[0].ff.linear_1.kernel.shape == (16, 64)


def test_has_diffusers_numbers_under_any_mask():
    # Masks that begin with padding, have holes, or keep one token. An eps of 1e-5 for 1e-6 costs 1.3e-5.
    config = config_from_json(HunyuanVideoConfig, parity.config("hunyuan_variant"))
    model = HunyuanVideoTransformer(config, rngs=nnx.Rngs(0))
    parity.load(model, KEYS, "hunyuan_variant")
    recorded = parity.arrays("hunyuan_variant", "a")
    text, mask = recorded["in/encoder_hidden_states"], recorded["in/encoder_attention_mask"] != 0
    embedded = "context_embedder.time_text_embed"

    @jax.jit
    def refine(model, text, mask, replace):
        with parity.Recorder(model, KEYS, replace).recording():
            return model.context_embedder(text, jnp.zeros(3), mask)

    out = refine(model, text, mask, {embedded: recorded[f"tap/{embedded}"]})
    n = 10 + config.text_embed_dim / 2 + 16 + parity.layers(2, config, text.shape[1], 32)
    parity.assert_close(out, recorded["tap/context_embedder"], n, "context_embedder")
