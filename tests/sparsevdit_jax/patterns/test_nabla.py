import jax
import numpy as np
import pytest

from sparsevdit_jax import StepContext, VideoGrid
from sparsevdit_jax.patterns import NABLA
from tests.conformance.pooled_suite import PooledSuite, logits, softmax, tile_blocks


def heaviest(weights, mass):
    """Cells from the lightest on are dropped while the rest holds `mass`."""
    order = np.argsort(-weights, kind="stable")
    before = np.cumsum(weights[order]) - weights[order]
    return order[before <= mass]


class TestNABLA(PooledSuite):
    pattern = NABLA(0.4, (3, 1, 3), (2, 2))

    def block_of(self, grid):
        return tile_blocks(grid, (1, 2, 2))

    def keep_blocks(self, q, k, block_of, head):
        weights = softmax(logits(q, k, block_of))
        keep = np.zeros(weights.shape, bool)
        for row, w in zip(keep, weights, strict=True):
            row[heaviest(w, 0.4)] = True
        frames, rows = (4, 2) if len(q) == 64 else (3, 3)
        place = np.stack(np.unravel_index(np.arange(len(keep)), (frames, rows, 2)))
        far = np.abs(place[:, :, None] - place[:, None])
        return keep | (far <= np.array([1, 0, 1])[:, None, None]).all(0)


def test_without_a_window():
    grid = VideoGrid(1, 4, 8)
    q, k = jax.random.normal(jax.random.key(1), (2, 1, 32, 1, 8)) * 2
    plan, _ = NABLA(0.7, None, (2, 2)).plan(q, k, (), StepContext(grid))
    weights = softmax(logits(q[0, :, 0], k[0, :, 0], tile_blocks(grid, (1, 2, 2))))
    for row, w in zip(np.asarray(plan.mask.to_dense())[0, 0], weights, strict=True):
        assert set(np.flatnonzero(row)) == set(heaviest(w, 0.7))


def test_a_window_is_cut_at_the_border():
    order = NABLA(cell=(1, 1)).token_order(VideoGrid(3, 4, 1))
    keep = NABLA(0.5, (1, 3, 3), (1, 1)).window_blocks(order).reshape(3, 4, 3, 4)
    assert np.flatnonzero(keep[1, 0, 1]).tolist() == [0, 1]
    assert np.flatnonzero(keep[1, 2, 1]).tolist() == [1, 2, 3]
    assert not keep[1, :, 0].any()


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"mass": 0}, r"mass=0 must lie in \(0, 1\]"),
        ({"window": (3, 3)}, r"window=\(3, 3\) must be 3 whole numbers"),
        ({"window": (0, 3, 3)}, "must be 3 whole numbers of at least 1"),
        ({"cell": (8, 0)}, r"cell=\(8, 0\) must be 2 whole numbers"),
    ],
)
def test_bad_fields(fields, match):
    with pytest.raises(ValueError, match=match):
        NABLA(**fields)
