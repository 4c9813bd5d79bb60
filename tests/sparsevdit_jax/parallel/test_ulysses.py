"""How heads are laid out; that attention is the same is in on_eight_devices/check_attention.py."""

import jax.numpy as jnp
import numpy as np
import pytest

from sparsevdit_jax.parallel import ulysses


@pytest.mark.parametrize("xp", [np, jnp], ids=["host", "device"])
def test_states_are_laid_out_and_back_and_added_heads_hold_zeros(xp):
    state = xp.asarray(np.arange(1, 7, dtype=np.int32).reshape(2, 3))
    places = xp.asarray(np.array([2, 0, 1, 3], np.int32))  # 3 heads on 4 devices
    laid_out = ulysses._place(state, places, 3)
    np.testing.assert_array_equal(laid_out, [[3, 1, 2, 0], [6, 4, 5, 0]])
    np.testing.assert_array_equal(ulysses._unplace(laid_out, places, 3), state)
    scalar = xp.asarray(np.int32(7))
    assert ulysses._place(scalar, places, 3) is scalar


def test_every_device_has_its_share_of_every_group():
    groups, places = [(4, 0), (1, 2, 3)], [np.array([1, 0]), np.array([2, 0, 1, 3])]
    layout = ulysses._layout(groups, places, 5, 2)
    # device 0: head 0 of the first group, then heads 3 and 1; device 1: head 4, then 2 and none
    np.testing.assert_array_equal(layout, [0, 3, 1, 4, 2, 5])


def test_heads_as_they_are_numbered_stay():
    places = [np.arange(4, dtype=np.int32)]
    assert ulysses._layout([(0, 1, 2, 3)], places, 4, 2) is None
    state = np.ones((1, 4, 2))
    assert ulysses._place(state, places[0], 4) is state


def test_equal_work_needs_no_order_and_a_table_s_steps_have_one_each():
    np.testing.assert_array_equal(ulysses.assign(None, 3, 0, 2), [0, 1, 2, 3])
    np.testing.assert_array_equal(ulysses.assign(np.array([1, 2, 3]), 3, 0, 1), [0, 1, 2])
    work = np.array([[9, 1, 1, 9], [9, 9, 1, 1]])
    for step in (0, 1):
        found = ulysses.assign(work, 4, jnp.int32(step), 2)
        np.testing.assert_array_equal(work[step][np.asarray(found)].reshape(2, 2).sum(-1), 10)
