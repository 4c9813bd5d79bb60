import dataclasses
import json

import pytest

from models.config import config_from_json
from models.wan import PRESETS, WanConfig, WanTransformer
from tests.models import parity


def test_config_json_of_the_original_is_read_and_written_back():
    for name in ("wan", "wan_i2v"):
        document = parity.config(name)
        config = config_from_json(WanConfig, document)
        assert config.patch_size == (1, 2, 2)  # a list in JSON
        assert (config.num_heads, config.head_dim, config.dim) == (3, 32, 96)
        written = json.loads(json.dumps(WanTransformer.write_config(config)))
        del document["_diffusers_version"]
        assert written == document


def test_fields_are_the_originals_and_no_others():
    document = parity.config("wan")
    fields = {field.name for field in dataclasses.fields(WanConfig)}
    ours = {"combine"}  # which the names of the tensors say
    assert fields - ours == {name for name in document if not name.startswith("_")}


def test_presets_differ_where_the_models_do():
    small, large = PRESETS["wan2.1-t2v-1.3b"], PRESETS["wan2.1-t2v-14b"]
    assert (small.dim, small.num_layers, small.ffn_dim) == (1536, 30, 8960)
    assert large == WanConfig()  # diffusers' defaults
    assert PRESETS["wan2.1-i2v-14b-480p"] == PRESETS["wan2.1-i2v-14b-720p"]
    assert PRESETS["wan2.1-flf2v-14b-720p"].pos_embed_seq_len == 514
    # Wan 2.2's image-to-video takes the first frame as channels, and no image encoder.
    assert PRESETS["wan2.2-i2v-a14b"] == dataclasses.replace(large, in_channels=36)
    assert PRESETS["wan2.2-t2v-a14b"] == large
    assert all(config.head_dim == 128 for config in PRESETS.values())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"qk_norm": None}, "qk_norm=None is not implemented; it must be 'rms_norm_across_heads'"),
        ({"patch_size": (2, 2)}, r"patch_size=\(2, 2\) must be \(frames, rows, columns\)"),
        ({"attention_head_dim": 15}, "attention_head_dim=15 must be even"),
        ({"freq_dim": 7}, "freq_dim=7 must be even"),
        ({"image_dim": 8}, "added_kv_proj_dim=None must be 5120 where image_dim=8"),
        ({"added_kv_proj_dim": 5120}, "added_kv_proj_dim=5120 must be None where image_dim=None"),
        (
            {"image_dim": 8, "added_kv_proj_dim": 64},
            "added_kv_proj_dim=64 must be 5120 where image_dim=8 and the model is 5120 wide",
        ),
    ],
)
def test_what_is_not_implemented_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        WanConfig(**fields)
