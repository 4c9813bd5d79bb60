"""Configurations read from and written to config.json."""

import dataclasses
import json
import types
from typing import get_origin, get_type_hints

import pytest

from models.cogvideox import CogVideoXConfig
from models.cogvideox_vae import CogVideoXVAEConfig
from models.config import check_counts, config_from_json, config_to_json, fields_from_json, require
from models.hunyuan_video import HunyuanVideoConfig
from models.hunyuan_video_vae import HunyuanVideoVAEConfig
from models.pretrained import TEXT_ENCODERS, TRANSFORMERS, VAES
from models.schedulers.files import REGISTRY
from models.t5 import PRESETS as T5
from models.t5 import T5Config
from models.wan import WanConfig
from models.wan_vae import WanVAEConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Toy:
    size: int = 4
    patch: tuple[int, ...] = (1, 2)
    kind: str = "a"

    def __post_init__(self):
        require(self, kind=("a", "b"))


def test_a_config_comes_back():
    document = config_to_json(Toy(size=5), "ToyModel")
    assert document["_class_name"] == "ToyModel"
    document["patch"] = list(document["patch"])  # as JSON gives it
    assert config_from_json(Toy, document) == Toy(size=5)


@pytest.mark.parametrize("cls", [WanConfig, HunyuanVideoConfig, CogVideoXConfig, WanVAEConfig])
def test_layers_are_counted_under_every_name_that_we_have(cls):
    names = [field.name for field in dataclasses.fields(cls) if "layers" in field.name]
    for name in names or ["num_res_blocks"]:
        config = cls(**{name: 10**6})
        with pytest.raises(ValueError, match=f"{name}=1000000 is more than the 999 tensors"):
            check_counts(config, 999)
        check_counts(config, 10**6)


def test_private_and_empty_entries_are_passed_over():
    assert config_from_json(Toy, {"_diffusers_version": "1", "image_dim": None}) == Toy()


def test_unknown_entries_are_named():
    with pytest.warns(UserWarning, match=r"Toy has no \['rope_scale'\]"):
        assert config_from_json(Toy, {"rope_scale": 2.0}) == Toy()


def test_values_that_are_not_implemented_are_refused():
    with pytest.raises(ValueError, match="Toy kind='c' is not implemented; it must be 'a' or 'b'"):
        config_from_json(Toy, {"kind": "c"})


CONFIGS = {
    cls.config_class
    for registry in (TRANSFORMERS, VAES, TEXT_ENCODERS, REGISTRY)
    for cls in registry.values()
}
FIELDS = [
    pytest.param(
        cls, field.name, get_type_hints(cls)[field.name], id=f"{cls.__name__}-{field.name}"
    )
    for cls in sorted(CONFIGS, key=lambda cls: cls.__name__)
    for field in dataclasses.fields(cls)
]
NEVER = [
    {},
    {"a": 1},
    float("nan"),
    float("inf"),
    -1,
    -0.5,
    "3.0",
    "",
    [[]],
    ["1", "2", "3"],
    [None],
]
"""Values that no field of ours may have, but texts for fields that are texts."""


@pytest.mark.parametrize(("cls", "field", "kind"), FIELDS)
def test_every_field_of_every_configuration_has_its_type(cls, field, kind):
    kinds = getattr(kind, "__args__", (kind,)) if isinstance(kind, types.UnionType) else (kind,)
    texts = str in kinds or tuple[str, ...] in kinds
    wrong = [value for value in NEVER if not (texts and value in ("3.0", "", ["1", "2", "3"]))]
    wrong += [None] * (types.NoneType not in kinds)
    wrong += [True] * (bool not in kinds) + [1.5] * (float not in kinds)
    wrong += [1] * (not {int, float} & set(kinds))
    wrong += [[], [1, 2], [1, 2, 3, 4]] * (not any(get_origin(kind) is tuple for kind in kinds))
    for value in wrong:
        with pytest.raises(ValueError, match=rf"{cls.__name__} {field}=.* must be "):
            fields_from_json(cls, {field: value})


@pytest.mark.parametrize("cls", sorted(CONFIGS, key=lambda cls: cls.__name__))
def test_defaults_of_every_configuration_are_of_their_types(cls):
    defaults = {
        field.name: field.default
        for field in dataclasses.fields(cls)
        if field.default is not dataclasses.MISSING
    }
    document = json.loads(json.dumps(defaults))  # tuples become lists
    if cls is T5Config:  # its sizes have no defaults
        document = json.loads(json.dumps(dataclasses.asdict(T5["umt5-xxl"])))
        defaults = dataclasses.asdict(T5["umt5-xxl"])
    assert fields_from_json(cls, document) == defaults


def test_whole_numbers_may_be_written_with_a_point():
    read = fields_from_json(Toy, {"size": 4.0, "patch": [2.0, 1]})
    assert read == {"size": 4, "patch": (2, 1)}
    assert isinstance(read["size"], int)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (0, "must be a whole number from 1 to 16777216, without quotes; leave it out for the"),
        ("4", "size='4' must be a whole number from 1 to 16777216, without"),
        (10**30, "must be a whole number from 1 to 16777216"),
        (None, "size=None must be a whole number"),
    ],
)
def test_a_wrong_value_is_said_with_its_rule(value, says):
    with pytest.raises(ValueError, match=says):
        config_from_json(Toy, {"size": value})


def test_lists_have_their_length():
    with pytest.raises(
        ValueError, match=r"patch_size=\[1, 2\] must be a list of 3 values that are"
    ):
        config_from_json(WanConfig, {"patch_size": [1, 2]})
    with pytest.raises(ValueError, match=r"latents_mean=.* must be a list of numbers"):
        config_from_json(WanVAEConfig, {"latents_mean": [0.1, None]})


@pytest.mark.parametrize(
    ("cls", "document"),
    [
        (WanVAEConfig, {"latents_std": [0.0] * 16}),
        (HunyuanVideoConfig, {"rope_theta": 0}),
        (HunyuanVideoVAEConfig, {"scaling_factor": 0}),
        (CogVideoXVAEConfig, {"scaling_factor": 0.0}),
        (CogVideoXConfig, {"spatial_interpolation_scale": 0}),
    ],
)
def test_divisors_are_above_zero(cls, document):
    (field,) = document
    with pytest.raises(ValueError, match=rf"{field}=.* must be above 0"):
        config_from_json(cls, document)
