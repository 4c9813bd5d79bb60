"""The two tiny VAEs of the parity files, and the roundings in a row of their halves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from models.abstract import without_weights
from models.cogvideox_vae import CogVideoXVAE, CogVideoXVAEConfig
from models.config import config_from_json
from tests.models import parity

# Four levels, as published; and three, with tiles and a norm_eps of 0.01, which the decoder must not use.
FULL, SMALL = "vae_cogvideox", "vae_cogvideox_tiled"


def config(name: str, **changes) -> CogVideoXVAEConfig:
    return config_from_json(CogVideoXVAEConfig, parity.config(name) | changes)


def roundings(name: str, resnets: int) -> float:
    """`parity.autoencoder` of a decoder (2 resnets a level) or an encoder (1)."""
    c = config(name)
    return parity.autoencoder(c.block_out_channels, resnets, c.latent_channels)


def build(name: str, dtype=jnp.float32) -> CogVideoXVAE:
    """A VAE with the parity file's weights; initial values, which take long to compile, are skipped."""
    model = without_weights(CogVideoXVAE, config(name), dtype)
    zeros = jax.tree.map(lambda a: jnp.asarray(np.zeros(a.shape, a.dtype)), nnx.state(model))
    nnx.update(model, zeros)
    parity.load(model, CogVideoXVAE.KEYS, name)
    return model


vae = functools.cache(build)  # not to be changed
DECODE, ENCODE = ({name: roundings(name, n) for name in (FULL, SMALL)} for n in (2, 1))
