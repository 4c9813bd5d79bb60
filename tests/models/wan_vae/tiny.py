"""Small autoencoders for tests: diffusers' reference one, and a two-level one that compiles quickly."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from models.abstract import without_weights
from models.config import config_from_json
from models.keys import checkpoint_slots
from models.wan_vae import WanVAE, WanVAEConfig
from tests.models import parity

TWO_LEVELS = WanVAEConfig(
    base_dim=4,
    z_dim=4,
    dim_mult=(1, 2),
    num_res_blocks=1,
    temperal_downsample=(True,),
    latents_mean=(0.1, -0.2, 0.3, 0.4),
    latents_std=(2.0, 0.5, 1.5, 3.0),
    scale_factor_temporal=2,
    scale_factor_spatial=2,
)
RESIDUAL = WanVAEConfig(
    base_dim=4,
    decoder_base_dim=8,
    z_dim=6,
    num_res_blocks=1,
    latents_mean=(0.0,) * 6,
    latents_std=(1.0,) * 6,
    is_residual=True,
    in_channels=12,
    out_channels=12,
    patch_size=2,
    scale_factor_spatial=16,
)


def roundings(config: WanVAEConfig, decoder: bool) -> float:
    """In a row through one half: num_res_blocks, and one more in the decoder."""
    dim = (decoder and config.decoder_base_dim) or config.base_dim
    channels, resnets = [dim * m for m in config.dim_mult], config.num_res_blocks + decoder
    return parity.autoencoder(channels, resnets, config.z_dim, attention=30)


@functools.cache
def reference(dtype=jnp.float32) -> WanVAE:
    """The model of vae_wan.safetensors."""
    tensors = load_file(parity.FOLDER / "vae_wan.safetensors")
    return filled(REFERENCE, lambda i, name, shape: tensors.pop(name), dtype)


REFERENCE = config_from_json(WanVAEConfig, parity.config("vae_wan"))
DECODE, ENCODE = (roundings(REFERENCE, decoder) for decoder in (True, False))


@functools.cache
def numbered(config: WanVAEConfig, dtype=jnp.float32) -> WanVAE:
    """A model with weights that need no file: noise seeded by the place of a name in the sorted list of all."""

    def tensor(i, name, shape):
        value = np.random.RandomState(i).standard_normal(shape).astype(np.float32)
        if name.endswith("gamma"):
            return 1 + np.float32(0.2) * value
        if name.endswith("bias"):
            return np.float32(0.05) * value
        return value / np.sqrt(np.prod(shape[1:])).astype(np.float32)

    return filled(config, tensor, dtype)


def filled(config: WanVAEConfig, tensor, dtype) -> WanVAE:
    """A model whose parameters are `tensor(index, name, shape)`; nothing is initialised (and compiled) before."""
    vae = without_weights(WanVAE, config, dtype)
    for i, (name, slot) in enumerate(sorted(checkpoint_slots(vae, WanVAE.KEYS).items())):
        value = tensor(i, name, slot.shape)
        assert value.shape == slot.shape, name
        slot.parameter.set_value(jnp.asarray(slot.from_checkpoint(value).astype(dtype)))
    return vae


def wave(shape: tuple[int, ...], step: float, scale: float = 1.0) -> jax.Array:
    """scale * cos(step * n) for the n-th entry, float32."""
    return jnp.asarray(scale * np.cos(step * np.arange(np.prod(shape))).reshape(shape), jnp.float32)


def more(name: str) -> np.ndarray:
    """An array of vae_wan_more.npz."""
    with np.load(parity.FOLDER / "vae_wan_more.npz") as file:
        return file[name]
