import gzip
import math

import jax.numpy as jnp
import pytest
from flax import nnx

from models.cogvideox import PRESETS, CogVideoXTransformer
from models.keys import checkpoint_slots
from tests.models.parity import FOLDER

PARAMETERS = {  # tensors and their sizes, counted in diffusers on the meta device
    "cogvideox-2b": (736, 1_693_783_872),
    "cogvideox-5b": (1024, 5_570_283_072),
    "cogvideox-5b-i2v": (1025, 5_625_087_552),  # 54.6 M are the learned positions
    "cogvideox1.5-5b": (1024, 5_570_676_352),
    "cogvideox1.5-5b-i2v": (1028, 5_571_594_880),
}


@pytest.mark.parametrize("preset", PRESETS)
def test_full_size_models_have_the_names_and_shapes_of_diffusers(preset):
    listed = gzip.decompress((FOLDER / f"{preset}_tensors.txt.gz").read_bytes()).decode()
    config = PRESETS[preset]
    model = nnx.eval_shape(
        lambda: CogVideoXTransformer(config, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    )
    slots = checkpoint_slots(model, CogVideoXTransformer.KEYS)
    ours = sorted(f"{name} {'x'.join(map(str, slot.shape))}" for name, slot in slots.items())
    assert ours == listed.splitlines()
    assert (len(slots), sum(math.prod(slot.shape) for slot in slots.values())) == PARAMETERS[preset]
