"""The two tiny VAEs of the parity files, and how far two float32 implementations may differ.

torch's float32 lies up to 7.2e-6 from its float64 in decoding (spread 0.96) and 1.2e-6 in encoding (0.54); ours 8.7e-6
and 1.6e-6. The tolerances are about three times torch's distance. The smallest mistake, eps 1e-5 for 1e-6, costs 4.8e-5
in decoding and 1.5e-5 in encoding.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from models.cogvideox_vae import CogVideoXVAE, CogVideoXVAEConfig
from models.config import config_from_json
from tests.models import parity

DECODE, ENCODE = 2e-5, 4e-6
# Four levels, as published; and three, with tiles and a norm_eps of 0.01, which the decoder must not use.
FULL, SMALL = "vae_cogvideox", "vae_cogvideox_tiled"


def config(name: str, **changes) -> CogVideoXVAEConfig:
    return config_from_json(CogVideoXVAEConfig, parity.config(name) | changes)


def build(name: str, dtype=jnp.float32) -> CogVideoXVAE:
    """A VAE with the parity file's weights; initial values, which take long to compile, are skipped."""
    model = nnx.eval_shape(lambda: CogVideoXVAE(config(name), dtype=dtype, rngs=nnx.Rngs(0)))
    zeros = jax.tree.map(lambda a: jnp.asarray(np.zeros(a.shape, a.dtype)), nnx.state(model))
    nnx.update(model, zeros)
    parity.load(model, CogVideoXVAE.KEYS, name)
    return model


vae = functools.cache(build)  # not to be changed
