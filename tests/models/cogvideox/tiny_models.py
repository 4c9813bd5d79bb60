"""The tiny CogVideoX models of tests/golden/parity, with inputs as keyword arguments."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from models.cogvideox import CogVideoXConfig, CogVideoXTransformer
from models.config import config_from_json
from tests.models import parity

CASES = [
    ("cogvideox_2b", "a"),
    ("cogvideox_2b", "b"),
    ("cogvideox_5b", "a"),
    ("cogvideox_5b", "b"),
    ("cogvideox_15", "a"),
    ("cogvideox_15", "b"),
    ("cogvideox_5b_i2v", "a"),
    ("cogvideox_5b_i2v", "b"),  # another number of frames than the learned table's
    ("cogvideox_15_i2v", "a"),
]

# These programs are compiled once for each run, and they are tiny: compiling is what takes the time.
QUICKLY = {"xla_backend_optimization_level": 0}


@functools.cache
def load(name, dtype=jnp.float32):
    config = config_from_json(CogVideoXConfig, parity.config(name))
    model = nnx.eval_shape(lambda: CogVideoXTransformer(config, dtype=dtype, rngs=nnx.Rngs(0)))
    model = jax.tree.map(lambda x: jnp.asarray(np.zeros(x.shape, x.dtype)), model)
    parity.load(model, model.KEYS, name)
    return model


def inputs(arrays):
    """The keyword arguments of a case, the rotary tables as a pair."""
    given = parity.inputs(arrays)
    if "image_rotary_emb.0" in given:
        parts = given.pop("image_rotary_emb.0"), given.pop("image_rotary_emb.1")
        given["image_rotary_emb"] = parts
    return given


def roundings(model, given, layers=None):
    """In a row through `layers` blocks (else all and what follows), from the patches; see tests/tolerances.py."""
    config = model.config
    text = given["encoder_hidden_states"].shape[1]
    tokens = text + math.prod(model.grid(given["hidden_states"].shape).shape)
    # A patch, or the text's channels; two frames a patch where there is patch_size_t.
    patch = max(config.text_embed_dim, config.in_channels * 4 * (config.patch_size_t or 1)) / 2
    number = config.num_layers if layers is None else layers
    after = 7 + config.dim / 2 if layers is None else 0
    return patch + parity.layers(number, config, tokens, 4 * config.dim) + after


@jax.jit(static_argnames=("attention", "remat"), compiler_options=QUICKLY)
def run(model, given, states=(), ctx=None, *, attention=None, remat=False):
    out = model(**given, attention=attention, states=states, ctx=ctx, remat=remat)
    return out.sample if attention is None else (out.sample, out.states)
