import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import _block_lists

KEEP = np.array([[1, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0], [0, 1, 1, 1]], bool)[None, None]


def test_host_and_program_list_the_same():
    indices, counts = _block_lists.on_host(KEEP, None)
    assert indices.shape == (1, 1, 4, 3)
    np.testing.assert_array_equal(counts[0, 0], [2, 4, 0, 3])
    np.testing.assert_array_equal(indices[0, 0, 0, :2], [0, 2])
    traced, traced_counts = jax.jit(_block_lists.in_program, static_argnums=1)(KEEP, 3)
    np.testing.assert_array_equal(traced_counts, counts)
    np.testing.assert_array_equal(traced[0, 0, 3], indices[0, 0, 3])


@pytest.mark.parametrize(
    "lists", [_block_lists.on_host, jax.jit(_block_lists.in_program, static_argnums=1)]
)
def test_round_trip(lists):
    indices, counts = lists(KEEP, 3)
    dense = np.array(_block_lists.to_dense(indices, counts, 4))
    dense[np.asarray(counts) == 4] = True  # full rows are not listed
    np.testing.assert_array_equal(dense, KEEP)


def test_a_block_is_listed_once_in_a_row_in_any_order_and_unused_slots_hold_anything():
    counts = np.array([[[3, 0, 2, 4]]], np.int32)
    indices = np.array([[[[2, 0, 1], [1, 1, 1], [3, 0, 0], [0, 0, 0]]]], np.int32)
    _block_lists.check_distinct(indices, counts, 4)
    indices[0, 0, 0] = 2, 0, 2
    with pytest.raises(
        ValueError, match=r"kv_indices\[0, 0, 0\] lists block 2 twice.*list it once"
    ):
        _block_lists.check_distinct(indices, counts, 4)
    _block_lists.check_distinct(jnp.asarray(indices), counts, 4)  # would wait for a device


def test_draw_shrinks_to_the_width():
    assert _block_lists.draw(KEEP[0, 0], 4) == "#.#.\n####\n....\n.###"
    assert _block_lists.draw(KEEP[0, 0], 2) == "++\n++"
