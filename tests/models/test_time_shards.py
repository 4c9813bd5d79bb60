"""Without a mesh; with one, on_eight_devices/check_vae.py decodes."""

import jax.numpy as jnp
import numpy as np

from models.time_shards import after_past


def test_a_cache_stands_before_and_the_last_frames_come_next():
    past, one, three = (jnp.arange(2 * n * 3.0).reshape(2, n, 3) + 100 * n for n in (2, 1, 3))
    x, cache = after_past(past, three)
    np.testing.assert_array_equal(x, np.concatenate([past, three], 1))
    np.testing.assert_array_equal(cache, three[:, 1:])
    _, cache = after_past(past, one)  # fewer frames than a cache has
    np.testing.assert_array_equal(cache, np.concatenate([past[:, 1:], one], 1))
