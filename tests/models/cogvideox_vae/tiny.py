"""The two tiny VAEs of the parity files, and how far two float32 implementations may differ.

torch's float32 lies up to 7.2e-6 from its float64 in decoding (spread 0.96) and 1.1e-6 in encoding (0.54), and so does
ours, on its own side: the tolerances are about three times that, at first sight of an error well below what the
smallest mistake costs (test_model.py).
"""

import functools

import jax.numpy as jnp
from flax import nnx

from models.cogvideox_vae import CogVideoXVAE, CogVideoXVAEConfig
from models.config import config_from_json
from tests.models import parity

DECODE, ENCODE = 2e-5, 4e-6
# Four levels, as published; and three, with tiles and a norm_eps of 0.01, which the decoder must not use.
FULL, SMALL = "vae_cogvideox", "vae_cogvideox_tiled"


def config(name: str, **changes) -> CogVideoXVAEConfig:
    return config_from_json(CogVideoXVAEConfig, parity.config(name) | changes)


@functools.cache
def vae(name: str, dtype=jnp.float32) -> CogVideoXVAE:
    model = CogVideoXVAE(config(name), dtype=dtype, rngs=nnx.Rngs(0))
    parity.load(model, CogVideoXVAE.KEYS, name)
    return model
