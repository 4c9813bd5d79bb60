"""How heads are laid out; that attention is the same is in on_eight_devices/check_attention.py."""

import jax.numpy as jnp
import numpy as np
import pytest
from sparsevdit_jax.parallel.heads import _lay_out


@pytest.mark.parametrize("xp", [np, jnp], ids=["host", "device"])
@pytest.mark.parametrize("shared", [False, True])
def test_heads_that_are_added_hold_zeros(xp, shared):
    a = np.arange(1, 4, dtype=np.int32).reshape(1, 3, 1)
    a = a[:, :1] if shared else a
    deal = np.array([2, 0, 1, 3], np.int32)  # 3 heads on 4 devices
    found = _lay_out(xp.asarray(a), xp.asarray(deal), 3)
    assert isinstance(found, np.ndarray) == (xp is np)
    np.testing.assert_array_equal(found[0, :, 0], [1, 1, 1, 0] if shared else [3, 1, 2, 0])


def test_heads_as_they_are_numbered_stay():
    a = np.ones((1, 3, 1))
    assert _lay_out(a, None, 3) is a
