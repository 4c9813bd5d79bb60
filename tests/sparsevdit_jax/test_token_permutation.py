import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsevdit_jax import TokenOrder, VideoGrid
from sparsevdit_jax.token_permutation import TokenPermutation

GRID = VideoGrid(4, 3, 3, 5)
ORDERS = (
    TokenOrder(GRID, 6),
    TokenOrder(GRID, 6, axes=(1, 2, 0)),
    TokenOrder(GRID, 6, (2, 3, 1)),
)


@pytest.mark.parametrize("traced", [False, True])
def test_each_head_has_its_order(traced):
    which = np.array([2, 0, 1, 1])
    x = jax.random.normal(jax.random.key(0), (2, GRID.num_tokens, 4, 3))

    def both(which, x):
        permutation = TokenPermutation.choose(ORDERS, which)
        lse = x[..., 0].swapaxes(1, 2)
        moved, moved_lse = permutation.apply(x), permutation.apply(lse, axis=2)
        return moved, permutation.undo(moved), moved_lse, permutation.undo(moved_lse, axis=2)

    if traced:
        moved, back, moved_lse, back_lse = jax.jit(both)(which, x)
    else:
        moved, back, moved_lse, back_lse = both(which, x)
    for head, order in enumerate(which):
        np.testing.assert_array_equal(moved[:, :, head], ORDERS[order].apply(x[:, :, head]))
    np.testing.assert_array_equal(moved_lse, moved[..., 0].swapaxes(1, 2))
    np.testing.assert_array_equal(back, x)
    np.testing.assert_array_equal(back_lse, x[..., 0].swapaxes(1, 2))


def test_rows_may_have_orders_of_their_own():
    which = np.array([[2, 0], [1, 2]])
    x = jax.random.normal(jax.random.key(0), (2, GRID.num_tokens, 2, 3))
    permutation = TokenPermutation.choose(ORDERS, which, np.array([5, 2], np.int32))
    moved = permutation.apply(x)
    np.testing.assert_array_equal(permutation.undo(moved), x)
    for row, head in np.ndindex(2, 2):
        order = ORDERS[which[row, head]]
        text = np.array([(5, 2)[row]], np.int32)
        expected = order.apply(x[row, :, head], axis=0)
        np.testing.assert_array_equal(moved[row, :, head], expected)
        np.testing.assert_array_equal(permutation.lengths[row, 0], order.lengths(text)[0, 0])
    grid = VideoGrid(1, 3, 4)
    orders = (TokenOrder(grid, 4, (1, 4, 1)), TokenOrder(grid, 4, (1, 2, 2)))
    lengths = TokenPermutation.choose(orders, np.array([[1, 0], [0, 0]])).lengths
    each = [order.lengths()[0, 0] for order in orders]
    np.testing.assert_array_equal(lengths, [[each[1], each[0]], [each[0], each[0]]])


def test_orders_of_other_blocks_are_refused():
    grid = VideoGrid(2, 3, 3)
    orders = (TokenOrder(grid, 9), TokenOrder(grid, 6))
    with pytest.raises(ValueError, match="must share grid, block and number of blocks"):
        TokenPermutation.choose(orders, np.array([0, 1]))


def test_equal_lengths_are_shared_by_all_heads():
    grid = VideoGrid(4, 2, 3, 3)
    orders = (TokenOrder(grid, 4), TokenOrder(grid, 4, (4, 1, 1)))
    text = np.array([1, 3], np.int32)
    lengths = TokenPermutation.choose(orders, np.array([0, 1]), text).lengths
    np.testing.assert_array_equal(lengths, orders[0].lengths(text))
    grid = VideoGrid(3, 3, 3)
    orders = (TokenOrder(grid, 9, axes=(2, 0, 1)), TokenOrder(grid, 9, (3, 3, 1)))
    assert TokenPermutation.choose(orders, np.array([0, 1])).lengths is None


def test_lengths_that_differ_by_head():
    grid = VideoGrid(1, 3, 4)
    orders = (TokenOrder(grid, 4, (1, 4, 1)), TokenOrder(grid, 4, (1, 2, 2)))
    lengths = TokenPermutation.choose(orders, np.array([1, 0, 1])).lengths
    np.testing.assert_array_equal(lengths, [[[4, 4, 2, 2], [3, 3, 3, 3], [4, 4, 2, 2]]])
    traced = jax.jit(lambda w: TokenPermutation.choose(orders, w).lengths)(jnp.array([1, 0, 1]))
    np.testing.assert_array_equal(traced, lengths)
