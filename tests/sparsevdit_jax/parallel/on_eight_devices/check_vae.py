"""A clip decoded by several devices, each its run of frames."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.kernel_resources.collectives import count
from models.wan_vae import WanVAE, WanVAEConfig
from sparsevdit_jax import parallel
from tests.models.random_weights import random_model


@pytest.fixture(scope="module")
def vae():
    return random_model(WanVAE, WanVAEConfig(base_dim=8, dim_mult=(1, 2, 2, 2), num_res_blocks=1))


@pytest.mark.parametrize("frames", [9, 8, 3], ids=["divides", "does not", "too few to spread"])
def test_decoding_is_that_of_one_device(vae, frames):
    z = jnp.asarray(np.random.default_rng(0).standard_normal((1, 16, frames, 4, 6), np.float32))
    expected = vae.decode(z)
    with jax.set_mesh(parallel.make_mesh(seq=4)):
        found = vae.decode(z)
    # Convolutions of up to 27 x 32 products, about 20 in a row, on chunks of other lengths.
    atol = 20 * np.sqrt(27 * 32) * np.finfo(np.float32).eps * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


def test_only_the_frames_before_travel(vae):
    z = jnp.zeros((1, 16, 9, 4, 6))
    with jax.set_mesh(parallel.make_mesh(seq=4)):
        found = count(jax.jit(vae.decode).lower(z).compile().as_text())
    assert "all-to-all" not in found
    assert found["all-gather"]["count"] == 1  # the frames, at the end
    convolutions = 2 + 2 * 2 + 4 * 2 * 2 + 2  # ends, middle, levels, doublings in time
    assert found["collective-permute"]["count"] in (convolutions, convolutions + 1)
