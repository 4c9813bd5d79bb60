import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from models.hunyuan_video_vae.decoder import Decoder

from .tiny import CONFIG


def shape_of(config, latents):
    def run(z):
        return Decoder(config, dtype=jnp.float32, rngs=nnx.Rngs(0))(z)

    return jax.eval_shape(run, jax.ShapeDtypeStruct(latents, jnp.float32)).shape


@pytest.mark.parametrize(("latents", "frames"), [(1, 1), (2, 5), (5, 17)])
def test_the_first_latent_gives_one_frame_and_others_four(latents, frames):
    assert shape_of(CONFIG, (2, latents, 2, 3, 16)) == (2, frames, 16, 24, 3)


def test_other_compressions_and_no_attention():
    config = dataclasses.replace(
        CONFIG, spatial_compression_ratio=4, mid_block_add_attention=False, layers_per_block=2
    )
    assert shape_of(config, (1, 2, 4, 6, 16)) == (1, 5, 16, 24, 3)


def test_levels_hold_what_the_original_holds():
    decoder = nnx.eval_shape(lambda: Decoder(CONFIG, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    assert [len(block.resnets) for block in decoder.up_blocks] == [2, 2, 2, 2]
    assert [len(block.upsamplers) for block in decoder.up_blocks] == [1, 1, 1, 0]
