"""Every name and shape of the full-size models.

`PRESET_tensors.txt.gz` of tests/golden/parity lists diffusers 0.42.1's `WanTransformer3DModel`, built on torch's
meta device with the preset's configuration: a line for each tensor of its state dict, "name 1536x1536", sorted.
"""

import gzip
import math

import jax.numpy as jnp
import pytest
from flax import nnx

from models.keys import checkpoint_slots
from models.wan import PRESETS, WanTransformer
from models.wan.weights import IGNORED, KEYS
from tests.models import parity


@pytest.mark.parametrize(
    ("preset", "listed", "tensors", "parameters"),
    [
        ("wan2.1-t2v-1.3b", "wan2.1-t2v-1.3b", 825, 1_418_996_800),
        ("wan2.1-t2v-14b", "wan2.1-t2v-14b", 1095, 14_288_491_584),
        ("wan2.1-i2v-14b-480p", "wan2.1-i2v-14b", 1303, 16_394_878_784),
        ("wan2.1-flf2v-14b-720p", "wan2.1-flf2v-14b", 1304, 16_395_536_704),
        ("wan2.2-ti2v-5b", "wan2.2-ti2v-5b", 825, 4_999_787_712),
    ],
)
def test_full_size_tensors_are_diffusers(preset, listed, tensors, parameters):
    text = gzip.decompress((parity.FOLDER / f"{listed}_tensors.txt.gz").read_bytes()).decode()
    expected = dict(line.split(" ") for line in text.splitlines())
    model = nnx.eval_shape(
        lambda: WanTransformer(PRESETS[preset], dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    )
    slots = checkpoint_slots(model, KEYS)
    assert {name: "x".join(map(str, slot.shape)) for name, slot in slots.items()} == expected
    assert len(slots) == tensors
    assert sum(math.prod(slot.shape) for slot in slots.values()) == parameters
    assert not set(IGNORED) & set(expected)

    float32 = {name for name, slot in slots.items() if slot.parameter.dtype == jnp.float32}
    kept = {"time_embedder", "scale_shift_table", "norm1", "norm2", "norm3"}
    assert float32 == {name for name in expected if kept & set(name.split("."))}
