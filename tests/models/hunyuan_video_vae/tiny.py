"""The tiny model of the parity files, and the roundings in a row of its halves."""

import jax
import jax.numpy as jnp

from models.abstract import without_weights
from models.config import config_from_json
from models.hunyuan_video_vae import HunyuanVideoVAE, HunyuanVideoVAEConfig
from tests.models import parity

CONFIG = config_from_json(HunyuanVideoVAEConfig, parity.config("vae_hunyuan"))
# Roundings in a row: 18 tokens attend to each other in the middle.
ENCODE, DECODE = (
    parity.autoencoder(CONFIG.block_out_channels, n, CONFIG.latent_channels, attention=18)
    for n in (CONFIG.layers_per_block, CONFIG.layers_per_block + 1)
)


def load(dtype=jnp.float32) -> HunyuanVideoVAE:
    """With its weights in `dtype`; made of zeros, since random weights would be compiled shape by shape."""
    abstract = without_weights(HunyuanVideoVAE, CONFIG, dtype)
    vae = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), abstract)
    parity.load(vae, HunyuanVideoVAE.KEYS, "vae_hunyuan")
    return vae
