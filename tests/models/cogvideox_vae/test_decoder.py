import jax
import jax.numpy as jnp
import numpy as np

from tests.models.parity import arrays, assert_close

from .tiny import DECODE, FULL, SMALL, vae


def test_one_chunk_of_three_latents_matches_diffusers():
    case = arrays(FULL, "a")
    assert_close(vae(FULL).decode(jnp.asarray(case["z"])), case["decoded"], DECODE, "video")


def test_the_future_is_not_seen_but_by_the_norms():
    # Within a chunk group norms join all frames; across chunks nothing reaches back.
    run = jax.jit(lambda decoder, z, caches: decoder(z, caches))
    decoder, z = vae(SMALL).decoder, jnp.asarray(arrays(SMALL, "decode_even")["z"])
    z = jnp.moveaxis(z, 1, -1)
    first, caches = run(decoder, z[:, :2], None)
    second, again = run(decoder, z[:, 2:], caches)
    assert first.shape == second.shape == (1, 8, 8, 12, 3)
    assert jax.tree.map(jnp.shape, again) == jax.tree.map(jnp.shape, caches)
    alone, _ = run(decoder, z[:, 2:], None)
    assert np.abs(np.asarray(second - alone)).max() > 0.1  # the past is seen
