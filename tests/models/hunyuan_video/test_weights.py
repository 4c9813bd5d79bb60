import gzip

import jax.numpy as jnp
from flax import nnx

from models.hunyuan_video import PRESETS, HunyuanVideoTransformer
from models.hunyuan_video.weights import KEYS
from models.keys import checkpoint_slots
from tests.models import parity


def test_full_size_model_has_the_tensors_of_diffusers():
    text = gzip.decompress((parity.FOLDER / "hunyuanvideo_tensors.txt.gz").read_bytes()).decode()
    theirs = dict(line.split() for line in text.splitlines())
    config = PRESETS["hunyuanvideo"]
    model = nnx.eval_shape(
        lambda: HunyuanVideoTransformer(config, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    )
    slots = checkpoint_slots(model, KEYS)
    assert {name: "x".join(map(str, slot.shape)) for name, slot in slots.items()} == theirs
    assert len(slots) == 1264
    assert sum(slot.parameter.size for slot in slots.values()) == 12_821_012_544
    assert {slot.parameter.dtype for slot in slots.values()} == {jnp.dtype("bfloat16")}
