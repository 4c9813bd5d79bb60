import jax.numpy as jnp
import pytest

from tests.models.parity import arrays, assert_close

from .tiny import ENCODE, FULL, SMALL, vae


def test_one_chunk_matches_diffusers():
    case = arrays(FULL, "enc")
    mean, logvar = vae(FULL).encode(jnp.asarray(case["video"]))
    assert_close(mean, case["mean"], ENCODE[FULL], "mean")
    assert_close(logvar, case["logvar"], ENCODE[FULL], "logvar")


@pytest.mark.parametrize(("case", "latents"), [("encode_odd", 4), ("encode_even", 3)])
def test_13_and_12_frames_in_one_chunk_match_diffusers(case, latents):
    case = arrays(SMALL, case)
    mean, logvar = vae(SMALL).encode(jnp.asarray(case["video"]))
    assert mean.shape[2] == latents
    near = "the errors of these few numbers hang together: all go through the same few norms"
    assert_close(mean, case["mean"], ENCODE[SMALL], "mean", near=near)
    assert_close(logvar, case["logvar"], ENCODE[SMALL], "logvar")


def test_norm_eps_is_that_of_the_resnets_alone():
    encoder = vae(SMALL).encoder
    assert encoder.norm_out.eps == 1e-6
    blocks = [*encoder.down_blocks, encoder.mid_block]
    assert {norm.eps for b in blocks for r in b.resnets for norm in (r.norm1, r.norm2)} == {0.01}
