"""The tiny model of the parity files."""

import jax
import jax.numpy as jnp
from flax import nnx

from models.config import config_from_json
from models.hunyuan_video_vae import HunyuanVideoVAE, HunyuanVideoVAEConfig
from tests.models import parity

CONFIG = config_from_json(HunyuanVideoVAEConfig, parity.config("vae_hunyuan"))


def load(dtype=jnp.float32) -> HunyuanVideoVAE:
    """With its weights in `dtype`; made of zeros, since random weights would be compiled shape by shape."""
    abstract = nnx.eval_shape(lambda: HunyuanVideoVAE(CONFIG, dtype=dtype, rngs=nnx.Rngs(0)))
    vae = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), abstract)
    parity.load(vae, HunyuanVideoVAE.KEYS, "vae_hunyuan")
    return vae
