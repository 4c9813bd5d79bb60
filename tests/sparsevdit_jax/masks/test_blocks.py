import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsevdit_jax import TokenOrder, VideoGrid
from sparsevdit_jax.masks import blocks
from sparsevdit_jax.token_order import slot_positions
from tests.sparsevdit_jax import oracles

GOLDEN = pathlib.Path(__file__).parents[2] / "golden"


def test_axis_window_equals_both_published_rules():
    table = np.load(GOLDEN / "sta_axis_rule.npz")["table"]
    assert len(table)
    for count, window, query, *rules in table.tolist():
        for rule, (first, last, kept) in (("paper", rules[:3]), ("exact", rules[3:])):
            row = np.flatnonzero(blocks.axis_window(count, window, rule)[query])
            assert (row[0], row[-1], len(row)) == (first, last, kept), (count, window, query, rule)


@pytest.mark.parametrize(("rule", "kept"), [("paper", 5), ("exact", 4)])
def test_even_windows(rule, kept):
    assert set(blocks.axis_window(9, 4, rule).sum(-1)) == {kept}


@given(st.integers(1, 30), st.data())
def test_band_rows_are_equal_and_hold_the_diagonal(count, data):
    width = data.draw(st.integers(1, count))
    band = blocks.band(count, width)
    rows = oracles.band_rows(count, width)
    assert [set(np.flatnonzero(row)) for row in band] == rows
    assert band.diagonal().all()


def test_with_text_keeps_text_rows_and_columns():
    order = TokenOrder(VideoGrid(1, 1, 8, 3), 2)
    keep = blocks.with_text(np.eye(4, dtype=bool), order)
    assert keep.shape == (6, 6)
    assert keep[4:].all()
    assert keep[:, 4:].all()
    np.testing.assert_array_equal(keep[:4, :4], np.eye(4, dtype=bool))


@pytest.mark.parametrize("density", [0.05, 0.2, 0.5, 0.77, 1.0])
@pytest.mark.parametrize("text_len", [0, 30])
def test_video_blocks_per_row_is_nearest(density, text_len):
    grid = VideoGrid(4, 10, 10, text_len)
    order = TokenOrder(grid, 16)
    assert blocks.video_blocks_per_row(order, density) == oracles.budget(grid, density, 16)


def test_bad_density():
    with pytest.raises(ValueError, match=r"density=0.0 must lie in \(0, 1\]"):
        blocks.video_blocks_per_row(TokenOrder(VideoGrid(1, 1, 8), 2), 0.0)


def test_a_cut_window():
    assert blocks.cut_window(4, 3).astype(int).tolist() == [
        [1, 1, 0, 0],
        [1, 1, 1, 0],
        [0, 1, 1, 1],
        [0, 0, 1, 1],
    ]
    np.testing.assert_array_equal(blocks.cut_window(9, 4), blocks.cut_window(9, 5))


@pytest.mark.parametrize("order", [
    TokenOrder(VideoGrid(3, 4, 5, 4, True), 6, path="gilbert"),
    TokenOrder(VideoGrid(3, 4, 5, 4), 8, (2, 2, 2)),
])  # fmt: skip
def test_blocks_touch_where_their_tokens_do(order):
    places, start = order.grid.coordinates(), order.grid.video_start
    block = slot_positions(order)[start : start + 60] // order.block
    near = np.abs(places[:, None] - places[None]).max(-1) <= 1
    want = np.zeros((order.num_video_blocks,) * 2, bool)
    for a, b in np.argwhere(near):
        want[block[a], block[b]] = True
    np.testing.assert_array_equal(blocks.touching(order), want)
