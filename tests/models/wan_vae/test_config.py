import dataclasses

import jax.numpy as jnp
import pytest
from flax import nnx

from models.config import config_from_json, config_to_json
from models.keys import checkpoint_slots
from models.tiling import Tile
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
    config = WanVAEConfig()
    assert config.compression == (4, 8, 8)
    assert (config.latent_channels, config.video_channels, config.decoder_dim) == (16, 3, 96)
    assert config.default_tile == Tile(height=256, width=256, stride_height=192, stride_width=192)
    assert (RESIDUAL.patch, RESIDUAL.compression, RESIDUAL.decoder_dim) == (2, (4, 16, 16), 8)
    assert (RESIDUAL.latent_channels, RESIDUAL.video_channels) == (6, 3)


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
