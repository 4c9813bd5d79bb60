import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.wan_vae.encoder import Encoder, ResidualDownBlock
from tests.models.wan_vae.tiny import RESIDUAL, TWO_LEVELS, numbered, wave


@jax.jit
def call(module, x, cache):
    return module(x, cache)


def test_a_chunk_becomes_moments_of_one_latent_frame():
    encoder = numbered(TWO_LEVELS).encoder
    x = wave((2, 3, 8, 4, 3), 0.3)
    first, cache = call(encoder, x[:, :1], None)
    assert first.shape == (2, 1, 4, 2, 8)
    rest, new = call(encoder, x[:, 1:], cache)
    assert rest.shape == (2, 1, 4, 2, 8)
    assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, cache)
    changed, _ = call(encoder, x[:, :1] + 1.0, None)
    assert float(jnp.abs(changed - first).max()) > 1e-3


def test_levels_of_a_residual_encoder():
    encoder = nnx.eval_shape(lambda: Encoder(RESIDUAL, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    assert [block.factors for block in encoder.down_blocks] == [(1, 2), (2, 2), (2, 2), (1, 1)]


@pytest.mark.parametrize(("down", "in_time"), [(True, True), (True, False), (False, False)])
def test_a_residual_level_adds_the_average(down, in_time):
    block = ResidualDownBlock(
        4, 8 if down else 4, 1, down=down, in_time=in_time, dtype=jnp.float32, rngs=nnx.Rngs(0)
    )
    x = wave((1, 2, 4, 4, 4), 0.3)
    _, cache = call(block, x[:, :1], None)
    out, _ = call(block, x, cache)
    size = 2 if down else 4
    assert out.shape == (1, 1 if in_time else 2, size, size, 8 if down else 4)
    # Without its last convolutions a level is the shortcut alone.
    last = block.downsampler.time_conv if in_time else None
    last = last or (block.downsampler.resample if down else None)
    if last is not None:
        last.kernel[...] = jnp.zeros(last.kernel.shape)
        last.bias[...] = jnp.zeros(last.bias.shape)
        out, _ = call(block, x, cache)
        np.testing.assert_allclose(out.mean(), x.mean(), atol=1e-6)


def test_refuses_channels_that_do_not_group():
    with pytest.raises(ValueError, match="4 channels x 1 pixels cannot be averaged down to 8"):
        ResidualDownBlock(4, 8, 1, down=False, in_time=False, dtype=jnp.float32, rngs=nnx.Rngs(0))
