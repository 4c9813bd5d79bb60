import jax
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


def test_draw_shrinks_to_the_width():
    assert _block_lists.draw(KEEP[0, 0], 4) == "#.#.\n####\n....\n.###"
    assert _block_lists.draw(KEEP[0, 0], 2) == "++\n++"
