"""The tiny models that diffusers computed, and what tests of them share."""

import functools

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from models.config import config_from_json
from models.hunyuan_video import HunyuanVideoConfig, HunyuanVideoTransformer
from models.hunyuan_video.weights import KEYS
from tests.models import parity


@functools.cache
def build(name, dtype=jnp.float32):
    config = config_from_json(HunyuanVideoConfig, parity.config(name))
    abstract = nnx.eval_shape(
        lambda: HunyuanVideoTransformer(config, dtype=dtype, rngs=nnx.Rngs(0))
    )
    model = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), abstract)
    parity.load(model, KEYS, name)
    return model


small = pytest.mark.parametrize("model", ["hunyuan_noguid"], indirect=True)  # a block of each kind


@jax.jit
def run(model, inputs):
    return model(**inputs).sample


def roundings(model, inputs, layers=None):
    """In a row through `layers` blocks (else all and what follows), from text or patches; see tests/tolerances.py."""
    config, text = model.config, inputs["encoder_hidden_states"].shape[1]
    width = config.num_heads * config.head_dim
    hidden = int(config.mlp_ratio * width)
    tokens = text + model.grid(inputs["hidden_states"].shape).num_video_tokens
    number = model.num_attention_layers if layers is None else layers
    # Text is projected and refined first, by what is also told its mean and the time.
    before = 10 + 2 * width + parity.layers(config.num_refiner_layers, config, text, hidden)
    after = 7 + width / 2 if layers is None else 0
    return before + parity.layers(number, config, tokens, hidden) + after
