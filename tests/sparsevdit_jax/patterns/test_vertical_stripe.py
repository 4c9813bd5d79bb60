import numpy as np
import pytest

from sparsevdit_jax import VideoGrid, metrics
from sparsevdit_jax.patterns import VerticalStripe
from tests.conformance.pattern_suite import PatternSuite
from tests.sparsevdit_jax import oracles


class TestVerticalStripe(PatternSuite):
    pattern = VerticalStripe(density=0.75, block=8)

    def keep_tokens(self, case):
        blocks = oracles.frame_major_blocks(case.grid, 8)
        count, total = blocks.max() + 1, oracles.budget(case.grid, 0.75, 8)
        first = -(-case.grid.height * case.grid.width // 8)
        columns, rest = set(range(first)), count - first
        for i in range(total - first):
            columns.add(first + int((2 * i + 1) * rest / (2 * (total - first))))
        assert len(columns) == total
        rows = [columns] * count
        return oracles.join_text(oracles.expand(rows, blocks), case.grid, case.text_lengths, 2)


class TestGivenColumns(PatternSuite):
    pattern = VerticalStripe(block=8, columns=(5, 1, 5))

    def keep_tokens(self, case):
        blocks = oracles.frame_major_blocks(case.grid, 8)
        rows = [{1, 5}] * (blocks.max() + 1)
        return oracles.join_text(oracles.expand(rows, blocks), case.grid, case.text_lengths, 2)


def test_columns_are_sorted_and_distinct():
    assert VerticalStripe(columns=(5, 1, 5)).columns == (1, 5)


@pytest.mark.parametrize("density", [0.2, 0.25, 0.5, 1.0])
def test_counted_density_is_declared(density):
    grid = VideoGrid(8, 16, 20, 40)
    counted = metrics.density(VerticalStripe(density), grid, num_heads=1)[0]
    assert abs(counted - density) <= 0.5 / 40 + 1e-6


def test_first_frame_and_spread_of_the_rest():
    keep = VerticalStripe(0.5, 8).keep_blocks(VideoGrid(8, 4, 4), 1)[0]
    assert np.flatnonzero(keep[0]).tolist() == [0, 1, 3, 5, 7, 10, 12, 14]


def test_bad_fields_and_grids():
    with pytest.raises(ValueError, match=r"density=1.5 must lie in \(0, 1\]"):
        VerticalStripe(1.5)
    with pytest.raises(ValueError, match="block=-1 must be a whole number of at least 1"):
        VerticalStripe(block=-1)
    with pytest.raises(ValueError, match=r"columns=\(\) must name at least one"):
        VerticalStripe(columns=())
    grid = VideoGrid(4, 4, 4)
    with pytest.raises(ValueError, match=r"columns hold 8, but .* has 8 video blocks .* 0\.\.7"):
        VerticalStripe(block=8, columns=(8,)).keep_blocks(grid, 1)
    with pytest.raises(ValueError, match=r"the first frame of .* has 2; raise the density above"):
        VerticalStripe(0.1, 8).keep_blocks(grid, 1)
