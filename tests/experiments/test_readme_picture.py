import numpy as np
import pytest

from experiments.readme_picture import METHODS, QUERY, density_of, draw, keys_of, mask_of
from sparsevdit_jax import StaticPattern, TokenOrder, VideoGrid
from sparsevdit_jax.patterns import PerHead, SlidingTile, VerticalStripe

GRID = VideoGrid(2, 4, 4, text_len=3)
ORDER = TokenOrder(GRID, 8, (1, 2, 4))  # four tiles of 8 tokens: the halves of each frame


def test_a_query_reads_the_tokens_of_the_blocks_that_it_keeps():
    keep = np.zeros((ORDER.num_blocks, ORDER.num_blocks), bool)
    keep[3, [0, 3]] = True  # the lower half of frame 1 reads the upper half of frame 0, and itself
    seen = keys_of(keep, ORDER, (1, 2, 3))
    expected = np.zeros((2, 4, 4), bool)
    expected[0, :2] = expected[1, 2:] = True
    np.testing.assert_array_equal(seen, expected)
    assert not keys_of(keep, ORDER, (0, 0, 0)).any()


def test_density_counts_real_tokens():
    keep = np.zeros((ORDER.num_blocks, ORDER.num_blocks), bool)
    keep[:, 4] = True  # all read the three tokens of text
    assert density_of(keep, ORDER) == pytest.approx(3 / 35)


def test_masks_that_have_no_one_order_are_refused():
    mixed = PerHead.of([SlidingTile((1, 2, 4), (1, 1, 1)), VerticalStripe(0.5, 8)])
    with pytest.raises(ValueError, match="an order for each head; the picture shows one"):
        mask_of(mixed, (np.zeros((1, 35, 2, 8)),) * 3, GRID)


def test_it_draws(tmp_path):
    grid = VideoGrid(16, 16, 16)
    qkv = (np.zeros((1, grid.num_tokens, 1, 8), np.float32),) * 3
    masks = {n: mask_of(p, qkv, grid) for n, p in METHODS.items() if isinstance(p, StaticPattern)}
    assert all(keys_of(*mask, QUERY).any() for mask in masks.values())
    draw(masks, tmp_path / "new" / "methods.png")
    assert (tmp_path / "new" / "methods.png").stat().st_size > 10_000
