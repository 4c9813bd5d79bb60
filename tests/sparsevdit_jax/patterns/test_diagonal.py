import jax
import numpy as np
import pytest

from sparsevdit_jax import TokenOrder, VideoGrid, metrics, sparse_attention
from sparsevdit_jax.patterns import Diagonal, MultiDiagonal
from tests.conformance.pattern_suite import PatternSuite
from tests.sparsevdit_jax import oracles


class TestDiagonal(PatternSuite):
    pattern = Diagonal(density=0.5, block=8)
    blocks = staticmethod(oracles.frame_major_blocks)

    def keep_tokens(self, case):
        blocks = self.blocks(case.grid, 8)
        rows = oracles.band_rows(blocks.max() + 1, oracles.budget(case.grid, 0.5, 8))
        return oracles.join_text(oracles.expand(rows, blocks), case.grid, case.text_lengths, 2)


class TestMultiDiagonal(TestDiagonal):
    pattern = MultiDiagonal(density=0.5, block=8)
    blocks = staticmethod(oracles.site_major_blocks)


def test_multi_diagonal_is_diagonal_on_permuted_tokens():
    grid = VideoGrid(4, 4, 4)
    qkv = jax.random.normal(jax.random.key(0), (3, 1, grid.num_tokens, 2, 8))
    site_major = np.arange(grid.num_tokens).reshape(4, 16).T.reshape(-1)
    permuted = sparse_attention(*qkv[:, :, site_major], grid=grid, pattern=Diagonal(0.4, 8))
    out = sparse_attention(*qkv, grid=grid, pattern=MultiDiagonal(0.4, 8))
    np.testing.assert_array_equal(out[:, site_major], permuted)


def test_orders():
    grid = VideoGrid(4, 4, 4)
    assert Diagonal(block=8).token_order(grid) == TokenOrder(grid, 8)
    assert MultiDiagonal(block=8).token_order(grid) == TokenOrder(grid, 8, axes=(1, 2, 0))


@pytest.mark.parametrize("cls", [Diagonal, MultiDiagonal])
@pytest.mark.parametrize("density", [0.1, 0.25, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("text_len", [0, 100])
def test_counted_density_is_declared(cls, density, text_len):
    grid = VideoGrid(8, 16, 20, text_len)
    blocks = grid.num_video_tokens / 64
    counted = metrics.density(cls(density), grid, num_heads=1)[0]
    assert abs(counted - density) <= 0.5 / blocks + 1e-6


def test_every_row_costs_the_same():
    counts = Diagonal(0.3, 8).keep_blocks(VideoGrid(4, 6, 5), 1)[0].sum(-1)
    assert len(set(counts.tolist())) == 1


@pytest.mark.parametrize("cls", [Diagonal, MultiDiagonal])
def test_bad_fields(cls):
    with pytest.raises(ValueError, match=r"density=0 must lie in \(0, 1\]"):
        cls(0)
    with pytest.raises(ValueError, match="block=0 must be a whole number of at least 1"):
        cls(0.5, 0)
