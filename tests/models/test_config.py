"""Configurations read from and written to config.json."""

import dataclasses

import pytest

from models.config import config_from_json, config_to_json, require


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


def test_private_and_empty_entries_are_passed_over():
    assert config_from_json(Toy, {"_diffusers_version": "1", "image_dim": None}) == Toy()


def test_unknown_entries_are_named():
    with pytest.warns(UserWarning, match=r"Toy has no \['rope_scale'\]"):
        assert config_from_json(Toy, {"rope_scale": 2.0}) == Toy()


def test_values_that_are_not_implemented_are_refused():
    with pytest.raises(ValueError, match="Toy kind='c' is not implemented; it must be 'a' or 'b'"):
        config_from_json(Toy, {"kind": "c"})
