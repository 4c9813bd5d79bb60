import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.wan_vae.decoder import Decoder, ResidualUpBlock, UpBlock
from tests.models.wan_vae.tiny import RESIDUAL, TWO_LEVELS, numbered, wave


@jax.jit
def call(module, x, cache):
    return module(x, cache)


def test_a_latent_frame_becomes_a_chunk():
    decoder = numbered(TWO_LEVELS).decoder
    z = wave((2, 2, 4, 2, 4), 0.3)
    first, cache = call(decoder, z[:, :1], None)
    assert first.shape == (2, 1, 8, 4, 3)
    rest, new = call(decoder, z[:, 1:], cache)
    assert rest.shape == (2, 2, 8, 4, 3)
    assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, cache)


def test_levels_halve_channels_only_without_residuals():
    decoder = nnx.eval_shape(lambda: Decoder(RESIDUAL, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    widths = [block.resnets[0].conv1.kernel.shape[-2:] for block in decoder.up_blocks]
    assert widths == [(32, 32), (32, 32), (32, 16), (16, 8)]
    assert [block.factors for block in decoder.up_blocks[:3]] == [(2, 2), (2, 2), (1, 2)]


@pytest.mark.parametrize(("up", "in_time"), [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize("cls", [UpBlock, ResidualUpBlock])
def test_levels(cls, up, in_time):
    block = cls(8, 4, 2, up=up, in_time=in_time, dtype=jnp.float32, rngs=nnx.Rngs(0))
    x = wave((1, 2, 4, 4, 8), 0.3)
    first, cache = call(block, x[:, :1], None)
    out, _ = call(block, x, cache)
    size, frames = (8 if up else 4), (4 if in_time else 2)
    channels = 2 if up and cls is UpBlock else 4
    assert first.shape == (1, 1, size, size, channels)
    assert out.shape == (1, frames, size, size, channels)
    if up and cls is ResidualUpBlock:  # without its last convolution a level is the shortcut alone
        block.upsampler.resample.kernel[...] = jnp.zeros((3, 3, 4, 4))
        block.upsampler.resample.bias[...] = jnp.zeros(4)
        out, _ = call(block, x, cache)
        assert {float(v) for v in np.asarray(out).ravel()} <= {
            float(v) for v in np.asarray(x).ravel()
        }
