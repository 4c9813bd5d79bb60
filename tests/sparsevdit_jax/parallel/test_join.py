"""Without a mesh; with one, on_eight_devices/check_join.py joins."""

import jax.numpy as jnp
import numpy as np

from sparsevdit_jax.parallel import join


def test_text_follows_or_leads():
    video, text = jnp.zeros((1, 3, 2)), jnp.ones((1, 2, 2))
    np.testing.assert_array_equal(join(video, text)[0, :, 0], [0, 0, 0, 1, 1])
    np.testing.assert_array_equal(join(video, text, text_first=True)[0, :, 0], [1, 1, 0, 0, 0])
