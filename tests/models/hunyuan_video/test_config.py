import dataclasses

import pytest

from models.config import config_from_json, config_to_json
from models.hunyuan_video import PRESETS, HunyuanVideoConfig
from tests.models import parity


@pytest.mark.parametrize("name", ["hunyuan", "hunyuan_noguid", "hunyuan_variant"])
def test_reads_and_writes_diffusers_config(name):
    document = parity.config(name)
    config = config_from_json(HunyuanVideoConfig, document)
    written = config_to_json(config, document["_class_name"])
    assert written.keys() - {"_class_name"} == {f.name for f in dataclasses.fields(config)}
    for field, value in document.items():
        if field != "_diffusers_version":
            assert written[field] == (tuple(value) if isinstance(value, list) else value)


def test_preset_has_the_published_sizes():
    config = PRESETS["hunyuanvideo"]
    assert (config.dim, config.num_heads, config.head_dim) == (3072, 24, 128)
    assert config.patch == (1, 2, 2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_condition_type": "token_replace"}, "'token_replace' is not implemented; it must"),
        ({"qk_norm": "layer_norm"}, "qk_norm='layer_norm' is not implemented"),
        ({"attention_head_dim": 64}, "sum is attention_head_dim=64; change"),
        ({"rope_axes_dim": (64, 64)}, r"\(64, 64\) must be three even numbers"),
        ({"rope_axes_dim": (15, 57, 56)}, "must be three even numbers"),
    ],
)
def test_what_is_not_implemented_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        HunyuanVideoConfig(**fields)
