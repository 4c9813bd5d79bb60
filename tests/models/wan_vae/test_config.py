import dataclasses

import jax.numpy as jnp
import pytest
from flax import nnx

from models.config import config_from_json, config_to_json
from models.keys import checkpoint_slots
from models.wan_vae import PRESETS, WanVAE, WanVAEConfig
from tests.models import parity
from tests.models.wan_vae.tiny import RESIDUAL


def test_fields_and_defaults_are_those_of_config_json():
    document = parity.config("vae_wan")
    config = config_from_json(WanVAEConfig, document)
    assert config == WanVAEConfig(base_dim=8, num_res_blocks=1)
    names = {name for name in document if not name.startswith("_")}
    assert {field.name for field in dataclasses.fields(WanVAEConfig)} == names
    assert config_from_json(WanVAEConfig, config_to_json(config, WanVAE.CLASS_NAME)) == config


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_every_tensor_of_the_original(name):
    lines = (parity.FOLDER / f"{name}_tensors.txt").read_text().splitlines()
    vae = nnx.eval_shape(lambda: WanVAE(PRESETS[name], dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    slots = checkpoint_slots(vae, WanVAE.KEYS)
    ours = sorted(f"{key} {'x'.join(map(str, slot.shape))}" for key, slot in slots.items())
    assert ours == lines


def test_what_follows_from_the_fields():
    assert WanVAEConfig().frames_per_latent == 4
    assert WanVAEConfig().pixels_per_latent == 8
    assert WanVAEConfig().decoder_dim == 96
    assert (RESIDUAL.patch, RESIDUAL.pixels_per_latent, RESIDUAL.decoder_dim) == (2, 16, 8)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attn_scales": (1.0,)}, r"attn_scales=\(1.0,\) is not implemented; it must be \(\)"),
        ({"dropout": 0.1}, "dropout=0.1 is not implemented"),
        ({"temperal_downsample": (True,)}, "one entry less than"),
        ({"scale_factor_temporal": 8}, "scale_factor_temporal=8, but .* make it 4; change one"),
        ({"scale_factor_spatial": 16}, "scale_factor_spatial=16, but .* make it 8"),
        ({"patch_size": 2, "scale_factor_spatial": 16}, "in_channels=3 must be a multiple of"),
        ({"latents_mean": (0.0,)}, "latents_mean has 1 entries and must have self.z_dim=16"),
        ({"z_dim": 8}, "must have self.z_dim=8"),
    ],
)
def test_refuses(fields, message):
    with pytest.raises(ValueError, match=message):
        WanVAEConfig(**fields)
