import dataclasses

import pytest

from models.cogvideox import PRESETS, CogVideoXConfig, CogVideoXTransformer
from models.config import config_from_json, config_to_json
from tests.models import parity


@pytest.mark.parametrize("name", ["cogvideox_2b", "cogvideox_15", "cogvideox_15_i2v"])
def test_fields_are_those_of_config_json(name):
    document = parity.config(name)
    config = config_from_json(CogVideoXConfig, document)
    version = document.pop("_diffusers_version")
    assert version
    assert config_to_json(config, CogVideoXTransformer.CLASS_NAME) == document


def test_presets():
    heads = {name: (c.num_layers, c.num_heads, c.head_dim) for name, c in PRESETS.items()}
    assert heads == {
        "cogvideox-2b": (30, 30, 64),
        "cogvideox-5b": (42, 48, 64),
        "cogvideox-5b-i2v": (42, 48, 64),
        "cogvideox1.5-5b": (42, 48, 64),
        "cogvideox1.5-5b-i2v": (42, 48, 64),
    }
    # The usual clips: 49 frames of 480 x 720, and 81 of 768 x 1360 (21 latent frames and one of padding).
    assert PRESETS["cogvideox-2b"].token_shape(13, 60, 90) == (13, 30, 45)
    assert PRESETS["cogvideox-2b"].sample_shape == (13, 30, 45)
    assert PRESETS["cogvideox1.5-5b"].token_shape(22, 96, 170) == (11, 48, 85)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dropout": 0.1}, "dropout=0.1 is not implemented; it must be 0.0"),
        ({"flip_sin_to_cos": False}, "flip_sin_to_cos=False"),
        ({"freq_shift": 1}, "freq_shift=1"),
        ({"activation_fn": "gelu"}, "activation_fn='gelu'"),
        ({"timestep_activation_fn": "gelu"}, "timestep_activation_fn='gelu'"),
        ({"ofs_embed_dim": 256}, "ofs_embed_dim=256 .* must be None or 512"),
        ({"out_channels": None}, "out_channels=None must be"),
        ({"use_learned_positional_embeddings": True}, "use_learned_positional_embeddings=True"),
        ({"patch_size_t": 2}, "patch_size_t=2 is not implemented; it must be None"),
        ({"max_text_seq_length": 10**6}, "max_text_seq_length=1000000 must be at most 8192"),
        ({"attention_head_dim": 12}, "multiple of 16: sin-cos"),
        (
            {"attention_head_dim": 24, "use_rotary_positional_embeddings": True},
            "attention_head_dim=24 must be a multiple of 16",
        ),
    ],
)
def test_what_is_not_implemented_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CogVideoXConfig(), **change)


def test_latents_must_divide_into_patches():
    with pytest.raises(
        ValueError, match=r"\(21, 96, 170\) pixels does not divide .*\(2, 2, 2\); pad"
    ):
        PRESETS["cogvideox1.5-5b"].token_shape(21, 96, 170)
