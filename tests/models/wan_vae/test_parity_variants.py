"""Gradient, tiles and the residual model of Wan 2.2 as in diffusers."""

import jax
import jax.numpy as jnp
import pytest

from models.wan_vae import Tile
from tests.models import parity
from tests.models.wan_vae.tiny import (
    DECODE,
    ENCODE,
    RESIDUAL,
    more,
    numbered,
    reference,
    roundings,
    wave,
)

RESIDUAL_DECODE, RESIDUAL_ENCODE = (roundings(RESIDUAL, decoder) for decoder in (True, False))


def test_gradient_is_that_of_diffusers():
    z = jnp.asarray(parity.arrays("vae_wan", "a")["z"])
    cotangent = wave((1, 3, 9, 32, 48), 0.37)
    vae = reference()
    gradient = jax.jit(jax.grad(lambda z: jnp.sum(vae.decode(z, remat=True) * cotangent)))(z)
    parity.assert_close(gradient, more("grad/z"), 3 * DECODE, "gradient")


def test_tiles_as_diffusers():
    vae, tile = reference(), Tile(height=32, width=32, stride_height=24, stride_width=16)
    z, video = wave((1, 16, 2, 5, 6), 1.3, 2.0), wave((1, 3, 1, 40, 48), 0.71)
    parity.assert_close(vae.decode(z, tile=tile), more("tiled/decoded"), DECODE, "decoded")
    moments = jnp.concatenate(vae.encode(video, tile=tile), 1)
    parity.assert_close(moments, more("tiled/moments"), ENCODE, "moments")


def test_residual_model_is_that_of_diffusers():
    vae = numbered(RESIDUAL)
    z, video = wave((1, 6, 3, 2, 2), 1.3, 2.0), wave((1, 3, 9, 32, 48), 0.71)
    parity.assert_close(vae.decode(z), more("residual/decoded"), RESIDUAL_DECODE, "decoded")
    moments = jnp.concatenate(vae.encode(video), 1)
    parity.assert_close(moments, more("residual/moments"), RESIDUAL_ENCODE, "moments")


@pytest.mark.slow
def test_residual_model_tiles_as_diffusers():
    vae, tile = numbered(RESIDUAL), Tile(height=32, width=32, stride_height=16, stride_width=16)
    z, video = wave((1, 6, 2, 3, 3), 0.9, 2.0), wave((1, 3, 1, 48, 64), 0.71)
    out = vae.decode(z, tile=tile)[:, :, ::4]
    parity.assert_close(out, more("residual/tiled_decoded"), RESIDUAL_DECODE, "decoded")
    moments = jnp.concatenate(vae.encode(video, tile=tile), 1)
    parity.assert_close(moments, more("residual/tiled_moments"), RESIDUAL_ENCODE, "moments")
