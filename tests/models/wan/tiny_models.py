"""The tiny Wan models of tests/golden/parity, and one of random weights that is smaller still."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from models.abstract import without_weights
from models.config import config_from_json
from models.wan import WanConfig, WanTransformer
from sparsevdit_jax import KernelOptions, Phase, SparseAttention, StepContext, StepSchedule
from tests.models import parity

SMALL = WanConfig(
    num_attention_heads=2,
    attention_head_dim=12,
    in_channels=4,
    out_channels=None,
    text_dim=10,
    freq_dim=8,
    ffn_dim=32,
    num_layers=1,
)


def build(config, dtype=jnp.float32):
    """A model of random weights, made in numpy: nothing is compiled."""
    model = without_weights(WanTransformer, config, dtype)
    rng = np.random.default_rng(0)
    for path, parameter in nnx.to_flat_state(nnx.state(model)):
        fan_in = math.prod(parameter.shape[:-1]) if path[-1] == "kernel" else 1
        value = rng.normal(size=parameter.shape, loc=path[-1] == "scale", scale=fan_in**-0.5)
        parameter.set_value(jnp.asarray(value.astype(parameter.dtype)))
    return model


@functools.cache
def load(name, dtype=jnp.float32):
    model = build(config_from_json(WanConfig, parity.config(name)), dtype)
    parity.load(model, model.KEYS, name)
    return model


def roundings(model, inputs, layers=None):
    """In a row through `layers` blocks (else all and what follows), from the patches; see tests/tolerances.py."""
    config, image = model.config, inputs.get("encoder_hidden_states_image")
    text = inputs["encoder_hidden_states"].shape[1] + (0 if image is None else image.shape[1])
    tokens = math.prod(inputs["hidden_states"].shape[2:]) // math.prod(config.patch_size)
    patch = config.in_channels * math.prod(config.patch_size) / 2
    number = config.num_layers if layers is None else layers
    after = 7 + config.num_heads * config.head_dim / 2 if layers is None else 0
    return patch + parity.layers(number, config, tokens, config.ffn_dim, cross=text) + after


@jax.jit(static_argnames=("attention", "remat"))
def run(model, inputs, *, attention=None, states=(), ctx=None, remat=False):
    out = model(**inputs, attention=attention, states=states, ctx=ctx, remat=remat)
    return out.sample if attention is None else (out.sample, out.states)


def small_inputs(shape, *, batch=2, text=5):
    keys = jax.random.split(jax.random.key(1), 2)
    return {
        "hidden_states": jax.random.normal(keys[0], (batch, 4, *shape)),
        "timestep": jnp.linspace(999.0, 20.0, batch),
        "encoder_hidden_states": jax.random.normal(keys[1], (batch, text, 10)),
    }


def run_pattern(model, inputs, *patterns, phase=Phase.REUSE, batch=2, states=None):
    attention = SparseAttention(patterns, StepSchedule(num_steps=3))
    grid, config = model.grid(inputs["hidden_states"].shape), model.config
    if states is None:
        states = attention.init(
            grid, batch=batch, num_heads=config.num_heads, head_dim=config.head_dim
        )
    # The kernels have tests of their own; this one compiles fastest.
    ctx = StepContext(grid, phase, step=1, kernel=KernelOptions("reference"))
    return run(model, inputs, attention=attention, states=states, ctx=ctx)
