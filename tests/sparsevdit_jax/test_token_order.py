import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsevdit_jax import TokenOrder, VideoGrid
from sparsevdit_jax.curves import PATHS
from sparsevdit_jax.token_order import gather_indices, slot_positions

sizes = st.integers(1, 6)
grids = st.builds(VideoGrid, sizes, sizes, sizes, st.integers(0, 7), st.booleans())


@st.composite
def orders(draw):
    grid = draw(grids)
    if draw(st.booleans()):
        tile = draw(st.tuples(*[st.integers(1, 4)] * 3))
        return TokenOrder(grid, math.prod(tile), tile)
    block, joined = draw(st.integers(1, 9)), draw(st.booleans())
    if draw(st.booleans()):
        return TokenOrder(grid, block, path=draw(st.sampled_from(list(PATHS))), joined=joined)
    return TokenOrder(grid, block, axes=draw(st.permutations((0, 1, 2))), joined=joined)


@settings(max_examples=20, deadline=None)
@given(orders())
def test_undo_inverts_apply_and_padding_is_zero(order):
    tokens = np.arange(1, order.grid.num_tokens + 1)
    x = jnp.asarray(np.stack([tokens, -tokens])[:, :, None], np.float32)
    # In one program, which compiles faster than an operation after the other.
    moved, there_and_back, back = jax.jit(
        lambda x, lse: (
            order.apply(x),
            order.undo(order.apply(x)),
            order.undo(order.apply(lse, axis=2), axis=2),
        )
    )(x, lse := jnp.swapaxes(x, 1, 2))
    assert moved.shape == (2, order.num_slots, 1)
    np.testing.assert_array_equal(there_and_back, x)
    # The fast paths agree with the index arrays.
    padded = np.append(np.asarray(x)[0, :, 0], 0)
    np.testing.assert_array_equal(moved[0, :, 0], padded[gather_indices(order)])
    np.testing.assert_array_equal(back, lse)


@settings(max_examples=60, deadline=None)
@given(orders())
def test_real_tokens_stand_at_the_start_of_each_block(order):
    taken = np.zeros(order.num_blocks * order.block, bool)
    taken[slot_positions(order)] = True
    lengths = order.lengths()[0, 0]
    assert lengths.sum() == order.grid.num_tokens
    offsets = np.arange(order.block)
    np.testing.assert_array_equal(taken.reshape(-1, order.block), offsets < lengths[:, None])
    assert order.num_blocks == -(-order.num_slots // order.block)
    for parts in (n for n in (2, 3) if order.block % n == 0):
        np.testing.assert_array_equal(
            order.lengths(parts=parts)[0, 0],
            taken.reshape(-1, order.block // parts).sum(1),
        )


def test_tile_id_has_its_closed_form():
    grid, tile = VideoGrid(4, 6, 8), (2, 3, 4)
    order = TokenOrder(grid, 24, tile)
    for index, (t, y, x) in enumerate(grid.coordinates()):
        tile_id = ((t // 2) * 2 + y // 3) * 2 + x // 4
        within = ((t % 2) * 3 + y % 3) * 4 + x % 4
        assert slot_positions(order)[index] == tile_id * 24 + within


def test_site_major_closed_form():
    order = TokenOrder(VideoGrid(3, 2, 4), 4, axes=(1, 2, 0))
    for index in range(24):
        frame, site = divmod(index, 8)
        assert slot_positions(order)[index] == site * 3 + frame


def test_identity_is_not_copied():
    x = jnp.zeros((1, 29, 2, 4))
    for order in (
        TokenOrder(VideoGrid(2, 3, 4, 5), 8),
        TokenOrder(VideoGrid(2, 3, 4, 5), 12, (1, 3, 4)),
        TokenOrder(VideoGrid(1, 1, 29), 8),
    ):
        assert order.is_identity
        assert order.apply(x) is x
        assert order.undo(x) is x
    assert not TokenOrder(VideoGrid(2, 3, 4, 5), 7).is_identity
    assert not TokenOrder(VideoGrid(2, 3, 4, 5, True), 8).is_identity
    # Half a tile is left over in time: at the end that is nothing, before text there is a gap.
    assert TokenOrder(VideoGrid(3, 3, 4), 24, (2, 3, 4)).is_identity
    assert not TokenOrder(VideoGrid(3, 3, 4, 5), 24, (2, 3, 4)).is_identity


def test_index_arrays_are_built_once():
    one, two = (TokenOrder(VideoGrid(3, 5, 7), 8, (2, 2, 2)) for _ in range(2))
    assert slot_positions(one) is slot_positions(two)


def test_lengths_follow_the_text():
    order = TokenOrder(VideoGrid(1, 1, 6, 7), 4)
    np.testing.assert_array_equal(order.video_lengths, [4, 2])
    np.testing.assert_array_equal(order.lengths(), [[[4, 2, 4, 3]]])
    text = np.array([0, 5], np.int32)
    expected = [[[4, 2, 0, 0]], [[4, 2, 4, 1]]]
    np.testing.assert_array_equal(order.lengths(text), expected)
    np.testing.assert_array_equal(order.lengths(jnp.asarray(text)), expected)
    joined = TokenOrder(VideoGrid(1, 1, 6, 7), 4, joined=True)
    assert (joined.num_video_blocks, joined.num_text_blocks, joined.num_slots) == (2, 2, 13)
    expected = [[[4, 2, 0, 0]], [[4, 4, 3, 0]]]
    np.testing.assert_array_equal(joined.lengths(text), expected)
    np.testing.assert_array_equal(joined.lengths(jnp.asarray(text)), expected)
    assert TokenOrder(VideoGrid(1, 1, 8), 4).mask_lengths() is None
    assert TokenOrder(VideoGrid(1, 1, 9), 4).mask_lengths() is not None


def test_pooled_tokens_are_means_of_the_real_ones():
    """Also of the parts of a block, of which some hold nothing."""
    order = TokenOrder(VideoGrid(1, 3, 3, 7, True), 6, path="morton", joined=True)
    x = jnp.asarray(np.random.RandomState(0).standard_normal((2, 16, 1, 2)), np.float32)
    moved, text = np.asarray(order.apply(x)), np.array([0, 4], np.int32)
    for parts in (1, 2, 3):
        pooled, size = np.asarray(order.pool(x, text, parts)), 6 // parts
        assert pooled.shape == (2, 3 * parts, 1, 2)
        for row, real in enumerate(9 + text):
            for cell in range(3 * parts):
                tokens = moved[row, cell * size : min(real, (cell + 1) * size), 0]
                expected = tokens.mean(0) if len(tokens) else 0
                np.testing.assert_allclose(pooled[row, cell, 0], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"block": 0}, "block=0 must be a whole number of at least 1"),
        ({"block": 8, "tile": (2, 2, 3)}, r"block=8 must be the volume of tile \(2, 2, 3\), 12"),
        ({"block": 4, "tile": (2, 2)}, r"tile=\(2, 2\) must be 3 whole numbers of at least 1"),
        ({"block": 4, "axes": (0, 1, 1)}, r"axes=\(0, 1, 1\) must be a permutation"),
        ({"block": 4, "tile": (1, 2, 2), "axes": (1, 2, 0)}, "applies to packed orders"),
        ({"block": 4, "tile": (1, 2, 2), "path": "morton"}, "path='morton' applies to packed"),
        ({"block": 4, "tile": (1, 2, 2), "joined": True}, "joined=True applies to packed orders"),
        ({"block": 4, "path": "hilbert"}, "path='hilbert' must be None or one of .*'gilbert'"),
        ({"block": 4, "path": "morton", "axes": (1, 2, 0)}, "are two walks; give one"),
    ],
)
def test_bad_recipes(kwargs, match):
    with pytest.raises(ValueError, match=match):
        TokenOrder(VideoGrid(2, 2, 2), **kwargs)


def test_wrong_length():
    order = TokenOrder(VideoGrid(3, 3, 3), 8, (2, 2, 2))
    with pytest.raises(ValueError, match=r"cannot apply .* must have 27 tokens; use the grid"):
        order.apply(jnp.zeros((1, 26, 1)))
    with pytest.raises(ValueError, match=r"cannot undo .* must have 57 tokens"):
        order.undo(jnp.zeros((1, 64, 1)))
    with pytest.raises(ValueError, match="parts=3 must divide block=8"):
        order.lengths(parts=3)
    with pytest.raises(ValueError, match="has no tile"):
        _ = TokenOrder(VideoGrid(3, 3, 3), 8).tiles
