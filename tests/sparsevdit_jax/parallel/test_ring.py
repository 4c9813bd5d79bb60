"""What each device does in a ring; the whole is in on_eight_devices/check_attention.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import BlockMask
from sparsevdit_jax.parallel import ring
from tests import tolerances

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


def test_merging_is_a_softmax_over_both():
    rng = np.random.default_rng(1)
    logits = rng.standard_normal((1, 1, 3, 8)).astype(np.float32)
    logits[..., 1, :4] = -np.inf  # nothing in the first part
    logits[..., 2, :] = -np.inf  # nothing at all
    values = rng.standard_normal((8, 2)).astype(np.float32)

    def part(columns):
        some = logits[..., columns]
        lse = jax.nn.logsumexp(some, -1)
        weights = jnp.exp(some - jnp.where(jnp.isfinite(lse), lse, 0)[..., None])
        return (weights @ values[columns]).swapaxes(1, 2), lse

    merged = ring._merge(*part(slice(0, 4)), *part(slice(4, 8)))
    for a, b in zip(merged, part(slice(0, 8)), strict=True):
        # exp and log twice, sums of 4 and 8 products of values that partly cancel, two weights and their sum
        np.testing.assert_array_equal(np.isneginf(a), np.isneginf(b))
        a, b = (np.where(np.isneginf(x), 0, x) for x in (a, b))
        allowed = tolerances.rounding(15) * np.abs(values).max()
        tolerances.assert_within(a, b, allowed, "merged")
    grads = jax.grad(lambda a, b: ring._merge(a, b, *part(slice(4, 8)))[0].sum(), (0, 1))(
        *part(slice(0, 4))
    )
    assert all(np.isfinite(g).all() for g in grads)
