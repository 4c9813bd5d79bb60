"""STA's Theorem 3.1 against a token mask (arXiv 2502.04507)."""

import numpy as np
import pytest

from experiments.paper_figures.sta import natten_blocks
from sparsevdit_jax import VideoGrid


def count_blocks(tiles_per_axis: int, tile: int, window: int) -> list[int]:
    """Key tiles that the queries of the middle tile of a cube see wholly, and in part.

    Counted on the token mask of NATTEN: away from borders, a query sees the window around it.
    """
    n = tiles_per_axis
    tokens = VideoGrid(*[n * tile] * 3).coordinates()
    tile_of = np.ravel_multi_index((tokens // tile).T, (n,) * 3)
    queries = tokens[tile_of == n**3 // 2]
    keep = (np.abs(queries[:, None] - tokens) <= window // 2).all(-1)
    pairs = np.bincount(tile_of, keep.sum(0))
    whole = pairs == tile**6
    return [whole.sum(), ((pairs > 0) & ~whole).sum()]


@pytest.mark.parametrize(
    ("tile", "window"), [(4, 11), (2, 1), (2, 3), (2, 5), (2, 7), (3, 5), (3, 7)]
)
def test_dense_and_mixed_blocks_are_those_of_the_theorem(tile, window):
    n = 2 * -(-window // (2 * tile)) + 3  # more than a window reaches
    counted = [100 * count / n**3 for count in count_blocks(n, tile, window)]
    np.testing.assert_allclose(natten_blocks(n * tile, window, tile), counted, rtol=1e-12)
