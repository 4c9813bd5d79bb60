import functools

import jax
import jax.numpy as jnp
import pytest

from tests.models.parity import arrays, assert_close

from .tiny import DECODE, FULL, SMALL, vae


def test_one_chunk_of_three_latents_matches_diffusers():
    case = arrays(FULL, "a")
    assert_close(vae(FULL).decode(jnp.asarray(case["z"])), case["decoded"], DECODE[FULL], "video")


@pytest.mark.parametrize(("latents", "frames"), [(1, 1), (2, 8), (3, 9)])
def test_frames_and_caches_of_a_chunk(latents, frames):
    run = functools.partial(jax.eval_shape, vae(SMALL).decoder)
    video, caches = run(jnp.zeros((2, latents, 2, 3, 4)), None)
    assert video.shape == (2, frames, 8, 12, 3)
    video, again = run(jnp.zeros((2, 2, 2, 3, 4)), caches)
    assert video.shape == (2, 8, 8, 12, 3)
    assert again == caches  # so they can be carried


def test_norm_eps_is_not_used():
    decoder = vae(SMALL).decoder
    resnets = [r for b in (decoder.mid_block, *decoder.up_blocks) for r in b.resnets]
    norms = [decoder.norm_out, *(norm for r in resnets for norm in (r.norm1, r.norm2))]
    assert {norm.norm_layer.eps for norm in norms} == {1e-6}
