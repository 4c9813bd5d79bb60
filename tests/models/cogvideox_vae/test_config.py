import dataclasses

import pytest

from models.cogvideox_vae import PRESETS, CogVideoXVAEConfig, Tile
from models.config import config_from_json, config_to_json
from tests.models import parity


def test_fields_are_those_of_diffusers():
    document = parity.config("vae_cogvideox")
    names = {name for name in document if not name.startswith("_")}
    assert {field.name for field in dataclasses.fields(CogVideoXVAEConfig)} == names


@pytest.mark.parametrize("name", ["vae_cogvideox", "vae_cogvideox_tiled"])
def test_json_round_trip(name):
    config = config_from_json(CogVideoXVAEConfig, parity.config(name))
    assert hash(config)
    assert config_from_json(CogVideoXVAEConfig, config_to_json(config, "x")) == config


def test_presets_differ_in_scaling_alone():
    factors = {name: (c.scaling_factor, c.invert_scale_latents) for name, c in PRESETS.items()}
    assert factors == {
        "cogvideox-vae": (1.15258426, False),
        "cogvideox-5b-vae": (0.7, False),
        "cogvideox1.5-5b-vae": (0.7, True),
    }
    same = {
        dataclasses.replace(c, scaling_factor=1.0, invert_scale_latents=False)
        for c in PRESETS.values()
    }
    assert len(same) == 1


def test_ratio_and_tile_follow_from_the_sizes():
    config = PRESETS["cogvideox-vae"]
    assert config.compression == (4, 8, 8)
    assert (config.latent_channels, config.video_channels) == (16, 3)
    assert config.default_tile == Tile(height=240, width=360, stride_height=200, stride_width=288)


@pytest.mark.parametrize(
    "changes",
    [
        {"use_quant_conv": True},
        {"use_post_quant_conv": True},
        {"act_fn": "relu"},
        {"temporal_compression_ratio": 8},
        {"shift_factor": 0.1},
        {"latents_mean": (0.0,) * 16},
        {"latents_std": (1.0,) * 16},
        {"down_block_types": ("CogVideoXDownBlock3D",) * 3},
        {"up_block_types": ("UpBlock",) * 4},
    ],
)
def test_what_is_not_implemented_is_refused(changes):
    (name,) = changes
    with pytest.raises(
        ValueError, match=rf"CogVideoXVAEConfig {name}=.* not implemented; it must be"
    ):
        CogVideoXVAEConfig(**changes)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"has 2 entries; it needs 3 or more"):
        CogVideoXVAEConfig(block_out_channels=(32, 32))
    with pytest.raises(ValueError, match=r"has \[100\], not multiples of .*norm_num_groups=32"):
        CogVideoXVAEConfig(block_out_channels=(128, 256, 256, 100))
