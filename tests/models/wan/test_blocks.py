import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.layers import LayerNorm, RMSNorm
from models.wan import WanTransformer
from sparsevdit_jax import VideoGrid
from sparsevdit_jax.patterns import SlidingTile
from tests.models.wan.tiny_models import SMALL, build, run, run_pattern, small_inputs


@pytest.mark.parametrize(
    "shape", [(4, 8, 8), (3, 6, 10)]
)  # tokens 4x4x4, and 3x3x5: tiles do not divide
def test_sliding_tiles_confine_what_a_block_sees(shape):
    """Only self-attention mixes tokens: after one block, a change is seen inside its window and nowhere else."""
    model, inputs = build(SMALL), small_inputs(shape)
    grid = model.grid(inputs["hidden_states"].shape)
    changed = inputs | {"hidden_states": inputs["hidden_states"].at[:, :, 0, :2, :2].add(1.0)}
    pattern = SlidingTile(tile=(2, 2, 2), window=(1, 1, 1))

    one, other = (run_pattern(model, x, pattern)[0] for x in (inputs, changed))
    moved = np.abs(np.asarray(one) - np.asarray(other)).max((0, 1))
    moved = moved.reshape(grid.frames, grid.height, 2, grid.width, 2).max((2, 4))
    sees = np.zeros(grid.shape, bool)
    sees[:2, :2, :2] = True  # the first tile
    assert (moved[sees] > 1e-5).all()
    assert (moved[~sees] == 0).all()


def test_dense_blocks_see_everything():
    model, inputs = build(SMALL), small_inputs((3, 6, 10))
    changed = inputs | {"hidden_states": inputs["hidden_states"].at[:, :, 0, :2, :2].add(1.0)}
    assert float(jnp.abs(run(model, inputs) - run(model, changed)).min()) > 0


def test_parts_that_a_configuration_leaves_out_are_not_built():
    model = build(dataclasses.replace(SMALL, cross_attn_norm=False))
    assert model.blocks[0].norm2 is None
    assert run(model, small_inputs((1, 2, 2))).shape == (2, 4, 1, 2, 2)
    assert model.num_attention_layers == 1
    assert model.grid((2, 4, 21, 60, 104)) == VideoGrid(21, 30, 52)


def test_norms_take_eps_from_the_configuration_and_those_of_images_torchs_default():
    config = dataclasses.replace(SMALL, eps=0.25, image_dim=6, added_kv_proj_dim=24)
    model = nnx.eval_shape(lambda: WanTransformer(config, rngs=nnx.Rngs(0)))
    found = {
        ".".join(map(str, path)): part.eps
        for path, part in nnx.iter_modules(model)
        if isinstance(part, LayerNorm | RMSNorm)
    }
    image = {name for name in found if "image_embedder" in name}
    assert {found[name] for name in image} == {1e-5}
    assert {found[name] for name in found.keys() - image} == {0.25}
    assert (len(image), len(found)) == (2, 11)
