import dataclasses

import pytest

from models.config import config_from_json, config_to_json
from models.hunyuan_video_vae import PRESETS, HunyuanVideoVAE, HunyuanVideoVAEConfig
from models.tiling import Tile
from tests.models import parity


def test_reads_and_writes_diffusers_config():
    document = parity.config("vae_hunyuan")
    config = config_from_json(HunyuanVideoVAEConfig, document)
    assert config.block_out_channels == (8, 8, 16, 16)
    written = config_to_json(config, HunyuanVideoVAE.CLASS_NAME)
    assert {k: list(v) if isinstance(v, tuple) else v for k, v in written.items()} == {
        k: v for k, v in document.items() if k != "_diffusers_version"
    }


def test_preset_is_the_original():
    config = PRESETS["hunyuanvideo-vae"]
    assert config == HunyuanVideoVAEConfig()
    assert config.block_out_channels == (128, 256, 512, 512)
    assert config.scaling_factor == 0.476986
    # Pixels are halved in the first three levels, frames in the second and the third.
    assert config.scale_factors == ((1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 1, 1))


def test_what_follows_from_the_fields():
    config = HunyuanVideoVAEConfig()
    assert config.compression == (4, 8, 8)
    assert (config.latent_channels, config.video_channels) == (16, 3)
    assert config.default_tile == Tile(frames=16, stride_frames=12)


def test_space_and_time_shrink_in_levels_of_their_own():
    config = HunyuanVideoVAEConfig(spatial_compression_ratio=2)
    assert config.scale_factors == ((1, 2, 2), (2, 1, 1), (2, 1, 1), (1, 1, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"down_block_types": ("DownBlock",) * 4}, "down_block_types=.*not implemented"),
        ({"up_block_types": ("HunyuanVideoUpBlock3D",) * 3}, "up_block_types=.*not implemented"),
        ({"act_fn": "gelu"}, "act_fn='gelu' is not implemented; it must be 'silu' or 'swish'"),
        ({"temporal_compression_ratio": 8}, "temporal_compression_ratio=8 .* must be 4"),
        ({"spatial_compression_ratio": 6}, "spatial_compression_ratio=6 .* must be 1 or 2 or 4"),
        ({"norm_num_groups": 48}, "norm_num_groups=48 must divide .* change one"),
        (
            {
                "block_out_channels": (32, 32),
                "down_block_types": ("HunyuanVideoDownBlock3D",) * 2,
                "up_block_types": ("HunyuanVideoUpBlock3D",) * 2,
                "spatial_compression_ratio": 4,
            },
            "has 2 levels; .* give at least 3",
        ),
    ],
)
def test_what_is_not_implemented_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(HunyuanVideoVAEConfig(), **change)
