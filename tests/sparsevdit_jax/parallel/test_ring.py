"""What each device does in a ring; the whole is in on_eight_devices/check_attention.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import BlockMask
from sparsevdit_jax.parallel import ring

KEEP = np.random.default_rng(0).random((1, 2, 6, 6)) < 0.5
KEEP[0, 0, 1] = True  # a full row
KEEP[0, 1, 2] = False  # an empty one


def mask(keep=KEEP, **lengths):
    return BlockMask.from_dense(keep, block_q=4, block_kv=4, **lengths)


@pytest.mark.parametrize("owner", [0, 1, 2])
def test_columns_of_an_owner_are_the_mask_s(owner):
    found = ring._columns(jax.tree.map(jnp.asarray, mask()), None, jnp.int32(owner), 2)
    np.testing.assert_array_equal(found.to_dense(), KEEP[..., 2 * owner : 2 * owner + 2])


def test_padding_adds_blocks_of_no_tokens():
    padded = ring._pad_blocks(mask(), 4)
    assert padded.num_q_blocks == padded.num_kv_blocks == 8
    np.testing.assert_array_equal(padded.kv_lengths[0, 0], [4] * 6 + [0] * 2)
    keep = np.asarray(padded.to_dense())
    np.testing.assert_array_equal(keep[..., :6, :6], KEEP)
    assert not keep[..., 6:, :].any()
    assert ring._pad_blocks(mask(), 3).num_q_blocks == 6


def test_distances_that_nobody_asks_for_are_not_travelled():
    near = np.eye(8, dtype=bool) | np.eye(8, k=1, dtype=bool)
    assert ring._hops(mask(near), 8) == [1]
    assert ring._hops(mask(near), 4) == [1]
    assert ring._hops(mask(near | near.T), 8) == [1, 7]
    assert ring._hops(mask(np.ones((8, 8), bool)), 8) is None
    assert ring._hops(jax.tree.map(jnp.asarray, mask(near)), 8) is None  # not known on the host
