"""Names and shapes at full size, as transformers lists them."""

import jax.numpy as jnp
import pytest
from flax import nnx

from models.keys import checkpoint_slots
from models.t5 import PRESETS, T5Encoder
from tests.models import parity

# Counted by transformers; the embedding once.
PARAMETERS = {"umt5-xxl": 5_680_910_336, "t5-v1.1-xxl": 4_762_310_656}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_tensor_of_the_preset_has_a_place(preset):
    lines = (parity.FOLDER / f"{preset}_tensors.txt").read_text().splitlines()
    theirs = dict(line.split(" ") for line in lines)
    for alias, canonical in T5Encoder.ALIASES.items():
        assert theirs.pop(alias) == theirs[canonical]
    model = nnx.eval_shape(lambda: T5Encoder(PRESETS[preset], dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    slots = checkpoint_slots(model, T5Encoder.KEYS)
    assert {name: "x".join(map(str, slot.shape)) for name, slot in slots.items()} == theirs
    assert sum(slot.parameter.size for slot in slots.values()) == PARAMETERS[preset]
