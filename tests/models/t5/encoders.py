"""The tiny encoders of tests/golden/parity, loaded."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import load_file

from models.keys import checkpoint_slots
from models.t5 import T5Encoder, t5_config_from_json
from tests.models import parity

NAMES = ("umt5", "t5v11")


def tensors(name: str) -> dict[str, np.ndarray]:
    """Those of the file, the embedding under its canonical name alone."""
    found = load_file(parity.FOLDER / f"{name}.safetensors")
    for alias, canonical in T5Encoder.ALIASES.items():
        np.testing.assert_array_equal(found.pop(alias), found[canonical])
    return found


def encoder(name: str, dtype=jnp.float32, **changes) -> T5Encoder:
    """With the file's weights; `changes` to the configuration."""
    document = parity.config(name)
    config = t5_config_from_json({"architectures": [document["_class"]], **document, **changes})
    model = T5Encoder(config, dtype=dtype, rngs=nnx.Rngs(0))
    slots, values = checkpoint_slots(model, T5Encoder.KEYS), tensors(name)
    assert slots.keys() == values.keys(), sorted(slots.keys() ^ values.keys())
    for key, slot in slots.items():
        assert slot.shape == values[key].shape, key
        slot.parameter[...] = jnp.asarray(slot.from_checkpoint(values[key])).astype(
            slot.parameter[...].dtype
        )
    return model


def recorded(name: str) -> tuple[jax.Array, jax.Array, np.ndarray]:
    """input_ids, attention_mask and transformers' last_hidden_state."""
    with np.load(parity.FOLDER / f"{name}_io.npz") as file:
        return (
            jnp.asarray(file["input_ids"].astype(np.int32)),
            jnp.asarray(file["attention_mask"].astype(np.int32)),
            file["last_hidden_state"],
        )


def roundings(name: str, tokens: int) -> float:
    """In a row through the encoder; q k^T is not scaled by the width, so logits are as large as 4.5; see parity."""
    c = parity.config(name)
    inner = c["num_heads"] * c["d_kv"]
    attention = parity.attention(inner, c["d_kv"], tokens, logit=4.5)
    return 5 + c["num_layers"] * (attention + parity.feed_forward(c["d_model"], c["d_ff"]))


@jax.jit
def run(model, ids, mask=None):
    return model(ids, mask)
