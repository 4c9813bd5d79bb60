"""Masks in characters."""

import numpy as np
import pytest

from sparsevdit_jax import TokenOrder, VideoGrid
from sparsevdit_jax.masks import draw
from sparsevdit_jax.patterns import SlidingTile


def test_small_mask_in_characters():
    order = TokenOrder(VideoGrid(4, 4, 8, text_len=3), 64, (4, 4, 4))
    keep = np.asarray([[1, 0, 1], [0, 1, 1], [1, 1, 1]], bool)
    assert draw.ascii_mask(keep, order).split() == ["##..|##", "..##|##", "----+--", "####|##"]
    assert draw.ascii_mask(keep).split() == ["##..##", "..####", "######"]


def test_large_mask_in_characters_shows_shares():
    keep = np.zeros((64, 64), bool)
    keep[:32, :32] = True
    keep[32, 0] = True
    lines = draw.ascii_mask(keep, width=16).split()
    assert [len(line) for line in lines] == [16] * 8
    assert lines[0] == "########........"
    assert lines[4] == ":..............."
    assert lines[7] == "." * 16
    assert draw.ascii_mask(np.ones((3, 200), bool), width=40) == "#" * 40


def test_window_in_characters():
    grid = VideoGrid(4, 8, 12)
    pattern = SlidingTile((4, 4, 4), (1, 1, 3))
    keep, order = pattern.keep_blocks(grid, 1)[0], pattern.token_order(grid)
    assert draw.ascii_window(keep, order, (0, 4, 0)).split() == ["...", "Q##"]
    with pytest.raises(ValueError, match="has no tile"):
        draw.ascii_window(np.ones((6, 6), bool), TokenOrder(grid, 64), (0, 0, 0))
