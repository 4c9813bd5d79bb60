import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from models.hunyuan_video_vae.encoder import Encoder

from .tiny import CONFIG


def shape_of(config, video):
    def run(x):
        return Encoder(config, dtype=jnp.float32, rngs=nnx.Rngs(0))(x)

    return jax.eval_shape(run, jax.ShapeDtypeStruct(video, jnp.float32)).shape


@pytest.mark.parametrize(("frames", "latents"), [(1, 1), (5, 2), (17, 5)])
def test_a_latent_covers_four_frames_and_the_first_one(frames, latents):
    assert shape_of(CONFIG, (2, frames, 16, 24, 3)) == (2, latents, 2, 3, 32)


def test_other_compressions_and_no_attention():
    config = dataclasses.replace(
        CONFIG, spatial_compression_ratio=4, mid_block_add_attention=False, layers_per_block=2
    )
    assert shape_of(config, (1, 5, 16, 24, 3)) == (1, 2, 4, 6, 32)


def test_levels_hold_what_the_original_holds():
    encoder = nnx.eval_shape(lambda: Encoder(CONFIG, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    assert [len(block.resnets) for block in encoder.down_blocks] == [1, 1, 1, 1]
    assert [len(block.downsamplers) for block in encoder.down_blocks] == [1, 1, 1, 0]
