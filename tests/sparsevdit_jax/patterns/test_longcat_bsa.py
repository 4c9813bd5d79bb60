import jax
import numpy as np
import pytest

from sparsevdit_jax import StepContext, VideoGrid
from sparsevdit_jax.patterns import LongCatBSA
from tests.conformance.pooled_suite import PooledSuite, best, logits, softmax, tile_blocks


def heaviest(weights, mass):
    """Tiles of a row in turn while their sum is at most `mass`."""
    order = np.argsort(-weights, kind="stable")
    return order[: int((np.cumsum(weights[order]) <= mass).sum())]


class TestLongCatBSA(PooledSuite):
    """Shares of one head, numbers of the other: a small one, and a large one that decides its rows."""

    pattern = LongCatBSA((0.2, 0.7), 0.3, (2, 2, 2))

    def block_of(self, grid):
        return tile_blocks(grid, (2, 2, 2))

    def keep_blocks(self, q, k, block_of, head):
        scores = logits(q, k, block_of)
        keep = best(scores, int((0.2, 0.7)[head] * len(scores)))
        for row, weights in zip(keep, softmax(scores), strict=True):
            row[heaviest(weights, 0.3)] = True
        return keep


def chosen(pattern, seed=0, size=1.0):
    grid = VideoGrid(4, 4, 8)
    q, k = jax.random.normal(jax.random.key(seed), (2, 1, grid.num_tokens, 1, 8)) * size
    plan, _ = jax.jit(lambda q, k: pattern.plan(q, k, (), StepContext(grid)))(q, k)
    block_of = tile_blocks(grid, pattern.tile)
    return np.asarray(plan.mask.to_dense())[0, 0], logits(q[0, :, 0], k[0, :, 0], block_of)


def test_a_number_of_tiles_is_rounded_down():
    keep, scores = chosen(LongCatBSA(0.24, tile=(2, 2, 2)))
    np.testing.assert_array_equal(keep, best(scores, 3))


def test_a_share_alone_leaves_rows_empty():
    keep, scores = chosen(LongCatBSA(None, 0.5, (2, 2, 2)), size=3.0)
    for row, weights in zip(keep, softmax(scores), strict=True):
        assert set(np.flatnonzero(row)) == set(heaviest(weights, 0.5))
    assert (keep.sum(1) == 0).any()
    assert keep.any()
    assert not LongCatBSA(None, 0.5).takes_density
    assert LongCatBSA(None, 0.5).with_density(0.1) == LongCatBSA(None, 0.5)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"density": None}, "density=None and mass=None keep nothing"),
        ({"density": 1.5}, r"density=1.5 must lie in \(0, 1\]"),
        ({"mass": 0}, r"mass=0 must lie in \(0, 1\]"),
        ({"tile": (4, 4)}, r"tile=\(4, 4\) must be 3 whole numbers"),
    ],
)
def test_bad_fields(fields, match):
    with pytest.raises(ValueError, match=match):
        LongCatBSA(**fields)
